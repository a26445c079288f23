"""Bad inputs: each a valid command of which a single thing is wrong."""

import inspect
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, TypeVar, get_args, get_type_hints

import typer

from fuzz import damage, places, values
from fuzz.workspace import SEARCHED, Workspace
from vflowopt.cli import app

COMMANDS = typer.main.get_command(app).commands
TO_FILES = ("optimize", "fit", "show", "flow", "calibrate")
TO_DIRECTORIES = ("bench", "compare", "ablate", "demo")
WITH_STRATEGIES = ("run", "evaluate", "show", "flow", "bench", "calibrate")
WITH_QUESTIONS = ("optimize", "fit", "evaluate", "flow", "compare", "ablate", "calibrate")
WITH_MODELS = ("run", "evaluate", "show", "flow", "bench", "calibrate", "optimize", "fit", "compare", "ablate")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Trial:
    """One command line.

    Attributes:
        kind: what is wrong with it.
        arguments: what is typed after ``vflowopt``.
        names: a refusal has to name one of these.
        certain: whether it must be refused; else what was changed may also do no harm.
        folder: the directory of its own files.
    """

    kind: str
    arguments: tuple[str, ...]
    names: tuple[str, ...]
    certain: bool
    folder: Path

    @property
    def command(self) -> str:
        """The command's name."""
        return self.arguments[0] if self.arguments else ""


class Trials:
    """Makes trials, and the files that they need, in a workspace."""

    def __init__(self, space: Workspace, seed: int) -> None:
        self._space, self._random, self._number = space, Random(seed), count()

    def __iter__(self) -> Iterator[Trial]:
        """All kinds in turn; what can be enumerated comes to an end, what is damaged at random does not."""
        kinds = [
            self._usage(), self._options(), self._paths(), self._outputs(), self._journal_places(), self._devices(),
            self._specifications(), self._strategies(), self._costs(), self._journals(), self._cells(),
            self._questions(), self._configurations(), self._checkpoints(), self._media(),
        ]  # fmt: skip
        while kinds:
            for kind in list(kinds):
                trial = next(kind, None)
                if trial is None:
                    kinds.remove(kind)
                else:
                    yield trial

    def _usage(self) -> Iterator[Trial]:
        for command in COMMANDS:
            yield self._trial("usage", command, {"--frobnicate": "1"}, ("--frobnicate",))
            yield self._trial("usage", command, {"surplus": None}, ("surplus",))
            for parameter in COMMANDS[command].params:
                if parameter.required:
                    option = parameter.opts[0]
                    yield self._trial("usage", command, {}, (option,), without=(option,))
        for typed in (["frobnicate"], ["Run"], [values.LONG], ["a\nb"], [""], ["--frobnicate"], ["-x"]):
            yield Trial("usage", tuple(typed), (typed[0][:20],), certain=True, folder=self._folder())

    def _options(self) -> Iterator[Trial]:
        """Values that an option does not take."""
        bad = []
        for command, parameter in self._valued():
            option, kind = parameter.opts[0], _kind(command, parameter.name)
            known = {float: values.NUMBERS, int: values.WHOLE_NUMBERS, str: values.TEXTS.get(option, ())}
            bad += [(command, option, value) for value in known.get(kind, ())]
            if getattr(parameter, "min", None) is not None:
                bad.append((command, option, f"{parameter.min - 1:g}"))
        instead = {"--kv-cache": ("--budget",), "--prefill-latency": ("--budget",), "--shape": ("--model",)}
        for command, option, value in self._shuffled(bad):
            changes = {option: value}
            if option == "--prefill-latency":
                changes["--cost"] = str(self._space / "cost.json")
            yield self._trial("option", command, changes, _said(value), without=instead.get(option, ()))

    def _paths(self) -> Iterator[Trial]:
        """Options that read something, and nothing of the kind is there."""
        reading = (
            "--data",
            "--images",
            "--image",
            "--video",
            "--guard",
            "--cost",
            "--search-data",
            "--model",
            "--strategy",
        )
        options = [
            (one, option.opts[0]) for one, option in self._valued() if option.opts[0] in reading and one != "demo"
        ]
        for (command, option), value in self._shuffled((one, value) for one in options for value in values.PATHS):
            others = {"--image", "--images", "--video", "--data", "--prompt"} - {option}
            without: tuple[str, ...] = ()
            if option in others | {option} and command not in ("compare", "ablate", "evaluate"):
                without = tuple(others - {"--prompt"} if command in ("run", "show") else others)
            if option == "--cost":
                without = ("--budget",)
            changes = {option: value} | ({"--prefill-latency": "1"} if option == "--cost" else {})
            yield self._trial(
                "path", command, changes, (Path(value).name or "'.'", value or "''", option), without=without
            )

    def _outputs(self) -> Iterator[Trial]:
        """Places where nothing can be written, or something would be lost."""
        kinds = [(TO_FILES, {**places.UNWRITABLE, **places.NO_FILE})]
        kinds += [(TO_DIRECTORIES, {**places.UNWRITABLE, **places.NO_DIRECTORY})]
        all_places = [
            (one, name, make) for commands, known in kinds for one in commands for name, make in known.items()
        ]
        for command, _, make in self._shuffled(all_places):
            folder = self._folder()
            out = str(make(self._space, folder))
            yield self._trial("output", command, {"--out": out}, (Path(out).name or "'.'", "'/'"), folder=folder)

    def _journal_places(self) -> Iterator[Trial]:
        known = {**places.UNWRITABLE, **places.NO_FILE}
        for option, command, name in self._shuffled(
            (option, command, name)
            for option, command in (("--journal", "optimize"), ("--calibrate", "bench"))
            for name in known
            if (option, name) != ("--journal", "a journal")
        ):
            folder = self._folder()
            path = str(known[name](self._space, folder))
            yield self._trial("output", command, {option: path}, (Path(path).name or "'.'", "'/'"), folder=folder)

    def _devices(self) -> Iterator[Trial]:
        for command, device in self._shuffled((one, device) for one in WITH_MODELS for device in values.DEVICES):
            yield self._trial("device", command, {"--device": device}, (device, "--device"))

    def _specifications(self) -> Iterator[Trial]:
        for command, text in self._shuffled((one, text) for one in WITH_STRATEGIES for text in values.STRATEGIES):
            names = (text, text.removeprefix("preset:"), f"scorer '{text.partition('@')[0]}'", "stage 18")
            yield self._trial("specification", command, {"--strategy": text}, names)

    def _strategies(self) -> Iterator[Trial]:
        valid = (self._space / "strategy.json").read_bytes()
        for command, path, certain in self._damaged(WITH_STRATEGIES, "strategy.json", valid):
            yield self._trial("strategy file", command, {"--strategy": str(path)}, (path.name,), certain=certain)

    def _costs(self) -> Iterator[Trial]:
        valid = (self._space / "cost.json").read_bytes()
        for command, path, _ in self._damaged(("run", "evaluate", "optimize"), "cost.json", valid):
            changes = (
                {"--prefill-latency": "1", "--cost": str(path)} if command == "optimize" else {"--guard": str(path)}
            )
            without = ("--budget",) if command == "optimize" else ()
            yield self._trial("cost model", command, changes, (path.name, "cost model"), without=without)

    def _journals(self) -> Iterator[Trial]:
        yield from self._records("journal", "optimize", "--journal", self._space.journal)

    def _cells(self) -> Iterator[Trial]:
        yield from self._records("cells", "compare", "--out", self._space.cells)

    def _records(self, kind: str, command: str, option: str, file: Path) -> Iterator[Trial]:
        """Record files of a finished command, edited: nothing of them may be believed."""
        valid = file.read_bytes()
        lines = valid.splitlines(keepends=True)
        first = json.loads(lines[0])
        other = [json.dumps(damage.changed(first, self._random)).encode() + b"\n" for _ in range(8)]
        edited = [b"".join([line, *lines[1:]]) for line in other]
        edited += [b"".join(lines[:-2] + lines[:-3:-1]), b"".join(lines[:1] + lines[2:]), b"".join(lines + lines[-1:])]
        for _ in range(12):
            at = self._random.randrange(len(valid) - 1)
            edited.append(valid[:at] + bytes([valid[at] ^ 1]) + valid[at + 1 :])
        edited += [content for content in damage.texts(valid) if content and not valid.startswith(content)]
        for content in self._shuffled(edited):
            folder = self._folder()
            out = folder / "out" if option == "--out" else folder
            out.mkdir(exist_ok=True)
            path = out / file.name
            path.write_bytes(content)
            given = out if option == "--out" else path
            changes = {option: str(given), "--initial": SEARCHED}
            yield self._trial(kind, command, changes, (path.name,), folder=folder)

    def _questions(self) -> Iterator[Trial]:
        valid = (self._space / "questions.jsonl").read_bytes()
        for command, path, certain in self._damaged(WITH_QUESTIONS, "questions.jsonl", valid):
            given = {"--data": str(path)}
            if command in ("compare", "ablate"):
                given["--search-data"] = str(self._space / "questions.jsonl")
            names = (path.name, "answers")
            yield self._trial(
                "questions", command, given, names, certain=certain, without=("--images", "--prompt", "--image")
            )

    def _configurations(self) -> Iterator[Trial]:
        valid = (self._space / "model" / "config.json").read_bytes()
        for command, path, certain in self._damaged(("run", "optimize", "bench"), "model/config.json", valid):
            yield self._model(command, "configuration", path.parent, certain=certain)

    def _checkpoints(self) -> Iterator[Trial]:
        """Other files of a checkpoint, damaged or missing."""
        model = self._space / "model"
        names = sorted(path.name for path in model.iterdir() if path.name != "config.json")
        while True:
            for name in names:
                folder = self._copied_model()
                content = (model / name).read_bytes()
                ways = [*damage.texts(content), None]
                way = self._random.choice(ways)
                if way is None:
                    (folder / name).unlink()
                elif name.endswith(".json") and self._random.random() < 0.7:
                    (folder / name).write_bytes(damage.dumped(damage.changed(json.loads(content), self._random)))
                else:
                    (folder / name).write_bytes(way)
                yield self._model("run", "checkpoint", folder, certain=name.endswith(".safetensors"))

    def _media(self) -> Iterator[Trial]:
        sources = {"--image": self._space / "images" / "0.png", "--video": self._space / "clip.gif"}
        while True:
            for (option, source), command in zip(sources.items(), ("run", "show"), strict=True):
                folder, content = self._folder(), source.read_bytes()
                path = folder / source.name
                at = self._random.randrange(8, len(content))
                way = self._random.choice(
                    [*damage.texts(content), content[:at], content[:at] + b"\x00" * 40 + content[at:]]
                )
                path.write_bytes(way)
                yield self._trial(
                    "media", command, {option: str(path)}, (path.name, "torchvision"), certain=False, folder=folder,
                    without=tuple(set(sources) - {option}),
                )  # fmt: skip

    # What several kinds need.

    def _model(self, command: str, kind: str, folder: Path, *, certain: bool) -> Trial:
        return self._trial(
            kind, command, {"--model": str(folder)}, (folder.name, "'<image>'", "chat template"), certain=certain
        )

    def _damaged(self, commands: Iterable[str], name: str, valid: bytes) -> Iterator[tuple[str, Path, bool]]:
        """A command, a damaged JSON file, and whether it is none any more; first all that are none."""
        document = json.loads(valid)
        for content in damage.texts(valid):
            for command in commands:
                yield command, self._written(name, content), True
        while True:
            for command in commands:
                content = damage.dumped(damage.changed(document, self._random))
                yield command, self._written(name, content), False

    def _written(self, name: str, content: bytes) -> Path:
        folder = self._copied_model() if name.startswith("model/") else self._folder()
        path = folder / Path(name).name
        path.write_bytes(content)
        return path

    def _copied_model(self) -> Path:
        folder = self._folder() / "model"
        shutil.copytree(self._space / "model", folder)
        return folder

    def _folder(self) -> Path:
        folder = self._space / f"trial-{next(self._number)}"
        folder.mkdir()
        return folder

    def _trial(
        self,
        kind: str,
        command: str,
        changes: Mapping[str, str | None],
        names: tuple[str, ...],
        *,
        certain: bool = True,
        folder: Path | None = None,
        without: tuple[str, ...] = (),
    ) -> Trial:
        folder = folder or self._folder()
        arguments = self._space.arguments(command, folder / "out", changes, without)
        return Trial(kind, (command, *arguments), names, certain, folder)

    def _shuffled(self, items: Iterable[Item]) -> list[Item]:
        listed = list(items)
        self._random.shuffle(listed)
        return listed

    @staticmethod
    def _valued() -> Iterator[tuple[str, Any]]:
        """Commands with those of their options that take a value."""
        for command, described in COMMANDS.items():
            for parameter in described.params:
                if not parameter.is_flag and not parameter.hidden and parameter.name != "help":
                    yield command, parameter


def _said(value: str) -> tuple[str, ...]:
    """As what a number or text may be named, once it was read."""
    return (value, "inf") if value == "1e999" else (value,)


def _kind(command: str, name: str) -> Any:
    """The type that an option's texts are turned into."""
    hint = get_type_hints(inspect.unwrap(COMMANDS[command].callback))[name]
    while get_args(hint):  # several, or none of them
        hint = get_args(hint)[0]
    return hint
