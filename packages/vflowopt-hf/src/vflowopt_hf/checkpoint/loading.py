"""Load a checkpoint and its processor, for the command line."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from vflowopt.adapter import Adapter, Inputs
from vflowopt.errors import InputError
from vflowopt_hf.checkpoint.panel import QuestionPanel
from vflowopt_hf.checkpoint.processing import ImageTextProcessor
from vflowopt_hf.family import Family, statistics_of


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model and its processor (:class:`vflowopt.adapter.LoadedModel`)."""

    name: str
    model: Any
    processor: Any
    adapter: Adapter
    family: Family

    def prepare(self, images: Sequence[Any], prompt: str, videos: Sequence[Sequence[Any]] = ()) -> Inputs:
        """Model inputs of batch size 1 for a question about PIL images and videos.

        Args:
            images: PIL images.
            prompt: the question.
            videos: each the PIL frames to use, of one size.

        Raises:
            InputError: the model takes no videos, its processor none without torchvision, or it refuses these inputs.
        """
        family = self.family
        # What splits videos to images for its model has no placeholder of videos, but upstream's video processor.
        if videos and "video" not in family.placeholder_ids(self.model) and not _takes_videos(self.processor):
            raise InputError(f"{self.name} ({family.name}) takes no videos; give their frames as images: --image")
        media: dict[str, Any] = {}
        if images:
            media["images"] = [list(images)]  # one list per prompt: images that share one are not tiled by all families
        if videos:
            media["videos"] = [np.stack([np.asarray(frame) for frame in frames]) for frames in videos]
            if _takes_videos(self.processor):
                media["do_sample_frames"] = False  # they are sampled already
        try:
            text = family.answer_prompt(self.processor, len(images), prompt, len(videos))
            batch = self.processor(text=text, return_tensors="pt", **media)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"the processor of {self.name} refuses the inputs: {_first_line(error)}") from error
        device, dtype = self.model.device, self.model.dtype
        return {
            name: value.to(device, dtype)
            if torch.is_tensor(value) and value.is_floating_point()
            else value.to(device)
            if torch.is_tensor(value)
            else value
            for name, value in batch.items()
        }

    def generate(self, inputs: Inputs, max_new_tokens: int) -> str:
        """Greedy answer text."""
        with torch.no_grad():
            ids = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        fresh = ids[:, inputs["input_ids"].shape[1] :]
        return str(self.processor.batch_decode(fresh, skip_special_tokens=True)[0]).strip()

    def panel(self, questions: Iterable[Inputs], max_new_tokens: int, *, keep: bool = True) -> QuestionPanel:
        """See :meth:`vflowopt.compare.panel.AnsweringModel.panel`."""
        statistics = statistics_of(self.family, self.processor)
        return QuestionPanel(self.family, self.model, statistics, self.generate, questions, max_new_tokens, keep=keep)


def _takes_videos(processor: Any) -> bool:
    """Whether it is one of upstream's processors with a video processor of its own."""
    return getattr(processor, "video_processor", None) is not None


def load_checkpoint(
    adapter: Adapter,
    family: Family,
    source: str | Path,
    *,
    name: str | None = None,
    processor: Callable[[], Any] | None = None,
    device: str | None = None,
    dtype: str = "auto",
    attn_implementation: str | None = None,
    options: Mapping[str, Any] | None = None,
    threads: int | None = None,
) -> Checkpoint:
    """Load through transformers' ordinary ``from_pretrained``.

    Args:
        adapter: the adapter that claims the model type.
        family: its family.
        source: a directory or hub id.
        name: what to call the model; by default the source.
        processor: makes the processor, where the ordinary one does not work.
        device: by default CUDA if there is one, else the CPU.
        dtype: a torch dtype's name or ``"auto"``; ``"auto"`` is float32 on the CPU.
        attn_implementation: as in transformers.
        options: further arguments of ``from_pretrained``.
        threads: CPU threads of the whole process; by default as torch is set up.

    Raises:
        InputError: model or processor cannot be loaded; names the cause.
    """
    from transformers import AutoModelForImageTextToText

    if threads is not None:
        torch.set_num_threads(threads)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    precision: Any = dtype if dtype != "auto" or device != "cpu" else "float32"
    if precision != "auto" and not isinstance(getattr(torch, precision, None), torch.dtype):
        raise InputError(f"{dtype!r} is not a torch dtype; use auto, float32, bfloat16 or float16")
    extra = dict(options or {})
    if attn_implementation is not None:
        extra["attn_implementation"] = attn_implementation
    with _quiet():
        try:
            model: Any = AutoModelForImageTextToText.from_pretrained(source, dtype=precision, **extra)
            model = model.to(device).eval()
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise InputError(f"cannot load a model from {str(source)!r}: {_first_line(error)}") from error
        loaded = _load_processor(family, model, source, processor)
    return Checkpoint(name or str(source), model, loaded, adapter, family)


def _load_processor(family: Family, model: Any, source: str | Path, processor: Callable[[], Any] | None) -> Any:
    """The given processor, the checkpoint's own, or, where torchvision is missing, one that takes images only.

    Raises:
        InputError: none of them can be had; names the cause.
    """
    from transformers import AutoProcessor

    try:
        if processor:
            return processor()
        try:
            return AutoProcessor.from_pretrained(source)
        except ImportError:
            return ImageTextProcessor.load(family, model, source)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"cannot load the processor of {str(source)!r}: {_first_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars and remarks off the terminal inside the block; put both back afterwards."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
