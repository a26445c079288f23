"""A loaded model with its questions, on which cells are filled."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

from vflowopt.adapter import Evaluator, Inputs, LoadedModel
from vflowopt.benchmark import UNPRUNED, Part
from vflowopt.compare.cells import Cell, Result
from vflowopt.compare.contracts import Asked, Effort, Watch
from vflowopt.compare.fitted import Fitter, file_name
from vflowopt.compare.panel import Answered, AnsweringModel, Panel
from vflowopt.errors import (
    BudgetError,
    ImportanceError,
    InputError,
    StrategyError,
    UnsupportedModelError,
    UnsupportedOperationError,
)
from vflowopt.files.output import make_folder
from vflowopt.report import UnitReport
from vflowopt.search import OptimizeResult, SearchProgress, search
from vflowopt.strategies.choices import Setting
from vflowopt.strategies.fitting import Fitting
from vflowopt.strategies.strategy import Strategy

CANNOT = (BudgetError, ImportanceError, StrategyError, UnsupportedModelError, UnsupportedOperationError)
"""Errors that speak of a method on a model, not of the comparison: a cell of their own."""

TIMED: tuple[Part, ...] = ("LM prefill", "end-to-end prefill", "decode per token")


class Search(Protocol):
    """A search of which all but the journal and who looks on is settled."""

    def __call__(self, *, journal: Path, progress: SearchProgress) -> OptimizeResult:
        """Run it, or what is left of it."""
        ...


class Workbench:
    """Answers all questions under a strategy, measures it, and searches and fits strategies.

    Args:
        loaded: model and processor.
        questions: what is asked in every cell.
        samples: what strategies are searched on; other questions.
        judge: whether an answer equals one of the accepted ones.
        effort: how much is done.
        out: directory for journals, and for searched and fitted strategies.
        watch: looks on.
        identity: of the comparison, for what is kept besides its cells.

    Raises:
        InputError: the model's adapter cannot answer encoded questions.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        questions: Sequence[Asked],
        samples: Sequence[Asked],
        judge: Callable[[str, Sequence[str]], bool],
        effort: Effort,
        out: Path,
        watch: Watch,
        identity: str,
    ) -> None:
        if not isinstance(loaded, AnsweringModel):
            raise InputError(
                f"the adapter of {loaded.name} ({loaded.adapter.name}) cannot answer encoded questions, which is "
                f"needed here: it has no panel(); use `vflowopt evaluate`"
            )
        self._loaded, self._questions, self._samples = loaded, questions, samples
        self._judge, self._effort, self._out, self._watch = judge, effort, out, watch
        self._panel: Panel = loaded.panel(
            self._prepared("encoding and answering unpruned", questions), effort.max_new_tokens, keep=effort.keep
        )
        self.num_layers = loaded.adapter.num_layers(loaded.model)
        self._fitter = Fitter(
            loaded, len(samples), lambda: self._prepared("observing samples for fitted methods", samples), out, identity
        )

    def fill(self, cell: Cell, label: str, strategy_for: Callable[[int], Strategy] | None) -> Result:
        """One cell.

        Args:
            cell: which one.
            label: what to call it while it is filled.
            strategy_for: gives its strategy for a number of decoder layers; ``None`` for the unpruned model.
        """
        begun = time.perf_counter()
        try:
            strategy = None if strategy_for is None else strategy_for(self.num_layers)
            budget = cell.budget
            if budget is None:
                budget = 1.0 if strategy is None else strategy.average_retention(self.num_layers)
            answered = self._answer(label, strategy)
            latency = self._latency(label, strategy)
        except CANNOT as error:
            return Result(cell, cannot=" ".join(str(error).split()), budget=cell.budget or 1.0)
        rights = [self._judge(one.text, asked.answers) for one, asked in zip(answered, self._questions, strict=True)]
        units = [unit for one in answered for unit in one.units]
        return Result(
            cell=cell,
            budget=budget,
            right=tuple(rights),
            similarity=statistics.fmean(one.similarity for one in answered),
            retention=statistics.fmean(_retention(one.units) for one in answered),
            deviation=max((abs(unit.retention - budget) * unit.tokens for unit in units), default=0.0),
            tokens=tuple(map(statistics.fmean, zip(*(one.tokens for one in answered), strict=True))),
            kv_cache_bytes=statistics.fmean(one.kv_cache_bytes for one in answered),
            flops=statistics.fmean(one.flops for one in answered),
            latency=latency,
            strategy=None if strategy is None else strategy.model_dump(mode="json", exclude={"provenance"}),
            score=strategy.provenance.score if strategy and strategy.provenance else None,
            seconds=time.perf_counter() - begun,
        )

    def search(self, cell: Cell, label: str, fixed: Mapping[str, Setting]) -> Strategy:
        """The strategy searched for a cell; the search is resumed from its journal.

        Args:
            cell: its budget and seed are the search's.
            label: what to call it.
            fixed: variables that do not vary.

        Raises:
            BudgetError: the budget is too small for the samples.
            JournalError: the journal is of another search.
            KeyboardInterrupt: Ctrl-C; the journal keeps what was found.
        """
        assert cell.budget is not None
        initial, iterations = self._effort.initial, self._effort.iterations
        values = {name: value if isinstance(value, str) else f"{value:g}" for name, value in fixed.items()}
        named = [f"{variable}-{value}" for variable, value in values.items()]
        name = file_name(cell.model, *named, cell.budget, cell.seed)
        run = partial(
            search,
            self._evaluator,
            cell.budget,
            initial=initial,
            iterations=iterations,
            seed=cell.seed or 0,
            fixed=fixed,
            model_name=cell.model,
        )
        strategy = self.finish(run, name, f"{label}: search", initial + iterations)
        self.save(strategy, name)
        return strategy

    def finish(self, run: Search, journal: str, label: str, evaluations: int) -> Strategy:
        """What a search finds, watched and with a journal from which the same call resumes.

        Args:
            run: the search.
            journal: name of its file, without suffix.
            label: what to call it while it runs.
            evaluations: how many it makes.

        Raises:
            KeyboardInterrupt: Ctrl-C; the journal keeps what was found.
        """
        self._watch.begin(label, evaluations)
        folder = make_folder(self._out / "searches")
        result = run(journal=folder / f"{journal}.jsonl", progress=lambda _: self._watch.advance())
        if result.interrupted:
            raise KeyboardInterrupt
        return result.strategy

    def save(self, strategy: Strategy, name: str) -> None:
        """Write a strategy file into the folder ``strategies``."""
        strategy.save(make_folder(self._out / "strategies") / f"{name}.json")

    def fit(self, cell: Cell, fitting: Fitting) -> Strategy:
        """The strategy fitted for a cell, see :meth:`Fitter.fit`."""
        return self._fitter.fit(cell, fitting)

    def evaluator(self, samples: Sequence[Asked], objective: str = "last-token") -> Evaluator:
        """Encode samples to search on; see :meth:`vflowopt.adapter.Adapter.evaluator`."""
        inputs = self._prepared("encoding samples of the search", samples)
        loaded = self._loaded
        return loaded.adapter.evaluator(loaded.model, inputs, objective=objective, processor=loaded.processor)

    @cached_property
    def _evaluator(self) -> Evaluator:
        return self.evaluator(self._samples)

    @cached_property
    def _typical(self) -> Inputs:
        """Inputs of the question with the median number of visual tokens, on which latency is measured."""
        tokens = [self._panel.answer(number, None).tokens[0] for number in range(len(self._panel))]
        middle = tokens.index(statistics.median_low(tokens))
        return self._questions[middle].prepare(self._loaded)

    def _answer(self, label: str, strategy: Strategy | None) -> list[Answered]:
        self._watch.begin(label, len(self._questions))
        answered = []
        for number in range(len(self._questions)):
            answered.append(self._panel.answer(number, strategy))
            self._watch.advance()
        return answered

    def _latency(self, label: str, strategy: Strategy | None) -> dict[str, tuple[float, float]]:
        """Medians of rounds in which the strategy and the unpruned model take turns."""
        if strategy is None or not self._effort.rounds:
            return {}
        self._watch.begin(f"{label}: latency", 2 * len(TIMED) * (self._effort.rounds + 1))
        loaded, name = self._loaded, f"not {UNPRUNED}"
        measured = loaded.adapter.benchmark(
            loaded.model,
            self._typical,
            {name: strategy},
            parts=TIMED,
            rounds=self._effort.rounds,
            processor=loaded.processor,
            on_task=lambda _done, _total: self._watch.advance(),
        )
        full, own = measured.rows
        return {part: (own.times[part].wall.median, full.times[part].wall.median) for part in TIMED}

    def _prepared(self, what: str, asked: Sequence[Asked]) -> Iterator[Inputs]:
        self._watch.begin(what, len(asked))
        for question in asked:
            yield question.prepare(self._loaded)
            self._watch.advance()


def _retention(units: Sequence[UnitReport]) -> float:
    """Average retention over all visual tokens of a question; 1 without pruning."""
    total = sum(unit.tokens for unit in units)
    return sum(unit.retention * unit.tokens for unit in units) / total if total else 1.0
