"""Load a checkpoint and its processor, for the command line."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vflowopt.adapter import Adapter, Inputs
from vflowopt.errors import InputError, VFlowOptError
from vflowopt_hf.checkpoint.causes import cause
from vflowopt_hf.checkpoint.panel import QuestionPanel
from vflowopt_hf.checkpoint.peft_adapter import with_adapter
from vflowopt_hf.checkpoint.processing import PROCESSOR_FILES, processor_of
from vflowopt_hf.checkpoint.weights import check_size, check_weights
from vflowopt_hf.family import Family, statistics_of
from vflowopt_hf.measure.devices import find_device, find_dtype


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
        # What splits videos to images for its model has no placeholder of videos, but upstream's video processor.
        if videos and "video" not in self.family.placeholder_ids(self.model) and not _takes_videos(self.processor):
            raise InputError(f"{self.name} ({self.family.name}) takes no videos; give their frames as images: --image")
        media: dict[str, Any] = {}
        if images:
            media["images"] = [list(images)]  # one list per prompt: images that share one are not tiled by all families
        if videos:
            media["videos"] = [np.stack([np.asarray(frame) for frame in frames]) for frames in videos]
            if _takes_videos(self.processor):
                media["do_sample_frames"] = False  # they are sampled already
        try:
            text = self.family.answer_prompt(self.processor, len(images), prompt, len(videos))
            batch = self.processor(text=text, return_tensors="pt", **media)
        except VFlowOptError:
            raise
        except Exception as error:  # of upstream's or a third party's code, on what a user or a damaged file says
            remedy = "check its files, or give another image"
            raise InputError(f"the processor of {self.name} refuses the inputs: {cause(error)}; {remedy}") from error
        device, dtype = self.model.device, self.model.dtype
        return {
            name: value.to(device, dtype)
            if torch.is_tensor(value) and value.is_floating_point()
            else value.to(device)
            if torch.is_tensor(value)
            else value
            for name, value in batch.items()
        }

    def generate(self, inputs: Inputs, max_new_tokens: int, on_token: Callable[[], object] | None = None) -> str:
        """Greedy answer text; ``on_token()`` follows each of its tokens."""
        streamer = {} if on_token is None else {"streamer": _Tokens(on_token)}
        with torch.no_grad():
            ids = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, **streamer)
        fresh = ids[:, inputs["input_ids"].shape[1] :]
        return str(self.processor.batch_decode(fresh, skip_special_tokens=True)[0]).strip()

    def panel(self, questions: Iterable[Inputs], max_new_tokens: int, *, keep: bool = True) -> QuestionPanel:
        """See :meth:`vflowopt.compare.panel.AnsweringModel.panel`."""
        statistics = statistics_of(self.family, self.processor)
        return QuestionPanel(self.family, self.model, statistics, self.generate, questions, max_new_tokens, keep=keep)


class _Tokens:
    """A streamer of transformers that tells of each token but the prompt's, which come first."""

    def __init__(self, on_token: Callable[[], object]) -> None:
        self._on_token, self._asked = on_token, False

    def put(self, value: Any) -> None:  # noqa: ARG002
        """The prompt, or the next token."""
        if self._asked:
            self._on_token()
        self._asked = True

    def end(self) -> None:
        """There are no more."""


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
    peft: str | None = None,
) -> Checkpoint:
    """Load through transformers' ordinary ``from_pretrained``, and refuse what it would make up.

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
        peft: directory or hub id of a PEFT adapter for the model.

    Raises:
        InputError: there is no such device or dtype, model or processor cannot be loaded, or the weights are not those
            of the model; names the cause.
        UnsupportedOperationError: the PEFT adapter is of a kind that cannot be pruned.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    place = find_device(device)
    extra = {"dtype": find_dtype(dtype, place, "auto"), **(options or {})}
    if attn_implementation is not None:
        extra["attn_implementation"] = attn_implementation
    with _quiet():
        model = _load_model(source, place, extra)
        if peft is not None:
            model = with_adapter(model, peft)
        loaded = processor_of(family, model, _with_processor(source, peft), processor)
    return Checkpoint(name or str(source), model, loaded, adapter, family)


def _load_model(source: str | Path, device: torch.device, options: Mapping[str, Any]) -> Any:
    """The model, with all of its weights and in evaluation mode.

    Raises:
        InputError: see :func:`load_checkpoint`.
    """
    from transformers import AutoModelForImageTextToText

    try:
        check_size(source)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
        model, info = loaded
        check_weights(source, model, info)
        return model.to(device).eval()
    except VFlowOptError:
        raise
    except Exception as error:  # whatever a damaged file or an absurd value sets off in upstream's code
        raise InputError(
            f"cannot load a model from {str(source)!r}: {cause(error)}; check its config.json and weights, or download "
            f"it again"
        ) from error


def _with_processor(source: str | Path, peft: str | None) -> str | Path:
    """Whose processor to load: an adapter may bring its own, with tokens that were added in training."""
    brought = peft is not None and any((Path(peft) / name).is_file() for name in PROCESSOR_FILES)
    return peft if peft is not None and brought else source


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
