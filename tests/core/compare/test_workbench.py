"""Cells filled from a model that is a table: what is counted, what is refused, what is asked again."""

from dataclasses import dataclass, field

import pytest

from vflowopt.cli.evaluate import is_right
from vflowopt.compare import UNPRUNED, Effort, Store, Subject, by_method, cells_of, fill, read_method
from vflowopt.compare.panel import Answered
from vflowopt.errors import BudgetError, InputError
from vflowopt.report import UnitReport
from vflowopt.strategies.reading import read_strategy

LAYERS, TOKENS = 9, (40, 101)


@dataclass
class Stub:
    """A loaded model that answers right as long as half of the tokens are left."""

    name: str = "stub"
    model: object = None
    processor: object = None
    calls: list = field(default_factory=list)

    @property
    def adapter(self):
        return self

    def num_layers(self, model):
        return LAYERS

    def panel(self, questions, max_new_tokens, *, keep=True):
        assert list(questions) == [{"n": n} for n in TOKENS]
        return self

    def __len__(self):
        return len(TOKENS)

    def answer(self, question, strategy):
        tokens = TOKENS[question]
        if strategy is None:
            return Answered("red", 1.0, (tokens,), (), 100, 10)
        (count,) = counts = strategy.schedule.counts(tokens)
        self.calls.append((question, strategy))
        if count < 5:
            raise BudgetError(f"{count} tokens\nare too few")
        unit = UnitReport(0, tokens, 0, counts, count / tokens, {})
        return Answered("the Red." if 2 * count >= tokens else "blue", 0.5, (tokens, count), (unit,), 50, 5)


@dataclass
class Asked:
    n: int
    answers: tuple = ("red",)

    def prepare(self, loaded):
        return {"n": self.n}


class Log:
    def __init__(self):
        self.steps, self.advanced, self.finished = [], 0, []

    def begin(self, what, total):
        self.steps.append((what, total))

    def advance(self):
        self.advanced += 1

    def done(self, result):
        self.finished.append(result.cell)


def run(tmp_path, stub, *methods, budgets=(0.5, 0.25, 0.1), store=None):
    read = [read_method(text, budgets, read_strategy) for text in (UNPRUNED, *methods)]
    cells, log = list(cells_of("m", read, budgets, 2)), Log()
    subject = Subject("m", lambda: stub, [Asked(n) for n in TOKENS])
    source, names = (
        by_method({one.identity: one for one in read}, read_strategy),
        {one.identity: one.name for one in read},
    )
    with store or Store.open(tmp_path / "cells.jsonl", {}, {"m": "w"}) as store:
        fill(
            source, subject, cells, names, store, judge=is_right,
            effort=Effort(rounds=0), out=tmp_path, watch=log,
        )  # fmt: skip
    return [store.results[cell] for cell in cells], log, store


def test_figures_of_a_cell(tmp_path):
    (unpruned, half, quarter, tenth), log, _ = run(tmp_path, Stub(), "mean-attention")
    assert (unpruned.accuracy, unpruned.retention, unpruned.tokens, unpruned.budget) == (1.0, 1.0, (70.5,), 1.0)
    assert (half.right, half.tokens) == ((True, True), (70.5, (20 + 51) / 2))
    assert half.deviation == pytest.approx(0.5)  # 51 of 101 tokens where 50.5 are due
    assert half.on_budget
    assert half.retention == pytest.approx((20 / 40 + 51 / 101) / 2)
    assert (quarter.right, quarter.similarity, quarter.flops, quarter.kv_cache_bytes) == ((False, False), 0.5, 50, 5)
    assert tenth.cannot == "4 tokens are too few"
    assert len(log.finished) == 4


def test_a_method_that_keeps_more_than_its_budget_is_found_out(tmp_path):
    class Generous(Stub):
        def answer(self, question, strategy):
            told = super().answer(question, strategy)
            if strategy is None:
                return told
            unit = told.units[0]
            more = UnitReport(0, unit.tokens, 0, unit.counts, unit.retention + 2 / unit.tokens, {})
            return Answered(told.text, told.similarity, told.tokens, (more,), told.flops, told.kv_cache_bytes)

    (_, half), _, _ = run(tmp_path, Generous(), "mean-attention", budgets=(0.5,))
    assert half.deviation == pytest.approx(2.5)
    assert not half.on_budget


def test_what_a_method_cannot_do_is_a_cell(tmp_path):
    (_, half, tenth), _, _ = run(tmp_path, Stub(), "fastv", budgets=(0.5, 0.1))
    assert not half.cannot
    assert "smallest feasible" in tenth.cannot


def test_finished_cells_are_not_asked_again(tmp_path):
    first, _, store = run(tmp_path, Stub(), "random", budgets=(0.5,))
    before = store.path.read_bytes()
    again = Stub()
    second, log, _ = run(tmp_path, again, "random", "uniform-grid", budgets=(0.5,))
    assert second[: len(first)] == first
    assert {type(strategy.scorer).__name__ for _, strategy in again.calls} == {"UniformGrid"}
    assert store.path.read_bytes().startswith(before)
    assert len(log.finished) == 1

    unused = Subject("m", lambda: pytest.fail("loaded for nothing"), [])
    cells = [result.cell for result in second]
    store = Store.open(store.path, {}, {"m": "w"})
    source = by_method({}, read_strategy)
    fill(source, unused, cells, {}, store, judge=is_right, effort=Effort(), out=tmp_path, watch=log)


def test_a_model_that_cannot_answer_encoded_questions_is_refused(tmp_path):
    class Plain:
        name = "plain"
        adapter = Stub()

    with pytest.raises(InputError, match="vflowopt evaluate"):
        run(tmp_path, Plain(), "random")
