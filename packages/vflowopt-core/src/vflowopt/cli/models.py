"""``--model``: a short name that a plugin registers, a directory, or a hub id."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from vflowopt.adapter import LoadedModel, NamedModel
from vflowopt.cli.console import notes
from vflowopt.errors import InputError, PluginError
from vflowopt.plugins import installed, load_adapter

ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="Directory or hub id of a checkpoint, or a named model such as [b]reference[/b]."
    ),
]
DeviceOption = Annotated[str | None, typer.Option(help="Device; by default CUDA if there is one, else the CPU.")]
DtypeOption = Annotated[str, typer.Option(help="torch dtype; [b]auto[/b] is the checkpoint's own, float32 on the CPU.")]


@dataclass(frozen=True)
class Chosen:
    """What ``--model`` means, before anything is loaded.

    Attributes:
        label: for output and provenance; holds no machine path of a named model.
        model_type: selects the adapter.
        source: directory or hub id.
        named: the registration, if it is a named model.
    """

    label: str
    model_type: str
    source: str | Path
    named: NamedModel | None = None

    def load(
        self, device: str | None = None, dtype: str = "auto", attn_implementation: str | None = None
    ) -> LoadedModel:
        """Load model and processor.

        Raises:
            UnsupportedModelError: no adapter for the model.
            InputError: it cannot be loaded.
        """
        options: dict[str, Any] = {"name": self.label, "device": device, "dtype": dtype}
        if self.named:
            options |= {
                "processor": self.named.processor,
                "options": self.named.options,
                "threads": self.named.threads,
            }
        if attn_implementation is not None:
            options["attn_implementation"] = attn_implementation
        with notes().status(f"loading {self.label}"):
            return load_adapter(self.model_type).load(self.source, **options)


def choose(model: str) -> Chosen:
    """Find out what a ``--model`` argument means, without importing a framework.

    Raises:
        InputError: no such name, directory or hub id, or a directory without a usable ``config.json``.
        PluginError: the named model's files cannot be found.
        UnsupportedModelError: no adapter for the model.
    """
    chosen = _named(installed().models[model]) if model in installed().models else _checkpoint(model)
    installed().adapter_for(chosen.model_type)
    return chosen


def _named(named: NamedModel) -> Chosen:
    try:
        source = named.path()
    except Exception as error:  # a third party's code
        raise PluginError(f"the files of model {named.name!r} are not available: {error}") from error
    return Chosen(named.name, named.model_type, source, named)


def _checkpoint(model: str) -> Chosen:
    directory = Path(model)
    config = directory / "config.json" if directory.is_dir() else _from_hub(model)
    try:
        model_type = json.loads(config.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{model!r} is not a transformers checkpoint: cannot read model_type from config.json ({cause})"
        ) from error
    return Chosen(model, str(model_type), model)


def _from_hub(model: str) -> Path:
    names = ", ".join(sorted(installed().models)) or "none"
    missing = f"there is no directory {model!r}, and no named model of that name (named models: {names})"
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise InputError(f"{missing}; to load from the Hugging Face hub, pip install vflowopt-hf") from None
    try:
        return Path(hf_hub_download(model, "config.json"))
    except Exception as error:  # no network, no such repository, no right to read it: many types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{missing}; the hub did not help either: {reason}") from error
