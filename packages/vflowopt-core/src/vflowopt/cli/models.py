"""``--model``: a short name that a plugin registers, a directory, or a hub id; of a checkpoint or a PEFT adapter."""

import json
import os
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from vflowopt.adapter import LoadedModel, NamedModel
from vflowopt.cli.console import working
from vflowopt.errors import InputError, PluginError
from vflowopt.plugins import installed, load_adapter

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Directory or hub id of a checkpoint or PEFT adapter, or a named model such as [b]reference[/b].",
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
        peft: directory or hub id of the PEFT adapter to put on the model of ``source``.
    """

    label: str
    model_type: str
    source: str | Path
    named: NamedModel | None = None
    peft: str | None = None

    def load(
        self, device: str | None = None, dtype: str = "auto", attn_implementation: str | None = None
    ) -> LoadedModel:
        """Load model and processor.

        Raises:
            UnsupportedModelError: no adapter for the model.
            InputError: it cannot be loaded, or its weights are not those of its configuration.
        """
        options: dict[str, Any] = {"name": self.label, "device": device, "dtype": dtype}
        if self.named:
            options |= {
                "processor": self.named.processor,
                "options": self.named.options,
                "threads": self.named.threads,
            }
        if self.peft is not None:
            options["peft"] = self.peft
        if attn_implementation is not None:
            options["attn_implementation"] = attn_implementation
        with working(f"loading {self.label}"):
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
    file = _config_of(model)
    if file.name == CONFIG:
        return Chosen(model, _text(model, file, "model_type"), model)
    base = _text(model, file, "base_model_name_or_path")
    config = _config_of(base)
    if config.name != CONFIG:
        raise InputError(f"{model!r} is a PEFT adapter of {base!r}, which is an adapter itself; merge them first")
    return Chosen(model, _text(base, config, "model_type"), base, peft=model)


def _config_of(model: str) -> Path:
    """The ``config.json`` of a checkpoint, or the ``adapter_config.json`` of a PEFT adapter.

    Raises:
        InputError: there is no such directory or hub id.
    """
    directory = Path(model)
    if not os.path.isdir(directory):  # noqa: PTH112 - for over-long names Path.is_dir() raises
        return _from_hub(model)
    weights = [*directory.glob("model*.safetensors"), *directory.glob("pytorch_model*.bin")]
    return directory / (ADAPTER_CONFIG if (directory / ADAPTER_CONFIG).is_file() and not weights else CONFIG)


def _text(model: str, file: Path, key: str) -> str:
    """A text out of a checkpoint's configuration.

    Raises:
        InputError: the file is not there, is no JSON, or does not hold it.
    """
    try:
        value = json.loads(file.read_bytes())[key]
        if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) < 1000:
            raise ValueError(f"it is {reprlib.repr(value)}")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        kind = "transformers checkpoint" if file.name == CONFIG else "PEFT adapter"
        cause = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{model!r} is not a {kind}: cannot read {key} from {file.name} ({cause}); download it again, or name the "
            f"directory that holds the checkpoint"
        ) from error
    return value


def _from_hub(model: str) -> Path:
    names = ", ".join(sorted(installed().models)) or "none"
    missing = f"there is no directory {model!r}, and no named model of that name (named models: {names})"
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise InputError(f"{missing}; to load from the Hugging Face hub, pip install vflowopt-hf") from None
    failure: Exception | None = None
    for name in (CONFIG, ADAPTER_CONFIG):
        try:
            return Path(hf_hub_download(model, name))
        except Exception as error:  # no network, no such repository, no right to read it: many types
            failure = failure or error
    reason = next(
        (line.partition(". ")[0] for line in str(failure).splitlines() if line.strip()), type(failure).__name__
    )
    raise InputError(f"{missing}; the hub did not help either: {reason}") from failure
