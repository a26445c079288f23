"""Studies on a model that is a formula: what is searched, what is shared, what is compared with what."""

import json
from dataclasses import replace

import pytest

from core.ablation.bench import LAYERS, Asked, Silent, Stub
from vflowopt import Strategy
from vflowopt.ablation import MAIN_SET, OBJECTIVES, PARTS, STUDIES, Ablation, Plan, run, studies_of
from vflowopt.cli.evaluate import is_right
from vflowopt.compare import UNPRUNED, Cell, Effort, Store, Subject
from vflowopt.errors import JournalError
from vflowopt.strategies.variables import values_of

PLAN = Plan(samples=4, initial=6, iterations=1, sample_counts=(2, 4, 6), evaluation_counts=(6, 7))
EVALUATIONS = 7
SETS = {MAIN_SET: [Asked(n) for n in range(8)], "set 1": [Asked(n) for n in range(10, 14)]}
BUDGETS = (0.5, 0.25)
ONE_MODEL = [name for name in STUDIES if name != "transfer"]


def ablation(stub, names, plan=PLAN, label="m", others=(), seeds=2):
    subject = Subject(label, lambda: stub, [Asked(n) for n in range(20)])
    return Ablation(subject, SETS, studies_of(names, plan, list(SETS), others), BUDGETS, seeds)


def fill(tmp_path, *ablations, plan=PLAN, watch=None):
    with Store.open(tmp_path / "cells.jsonl", {}, {own.subject.label: "w" for own in ablations}) as store:
        effort, looker = Effort(rounds=0), watch or Silent()
        tables = run(ablations, plan, store, judge=is_right, effort=effort, out=tmp_path, watch=looker)
    return {table.study.name: table for table in tables}, store


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out, stub = tmp_path_factory.mktemp("whole"), Stub()
    tables, store = fill(out, ablation(stub, ONE_MODEL))
    return out, stub, tables, store


def found(store, table, name, budget=0.25, seed=0):
    (line,) = [line for line in table.study.lines if line.name == name]
    return store.results[Cell("m", line.variant.name, budget, seed)]


def test_every_row_has_every_seed_at_every_budget(whole):
    tables = whole[2]
    assert list(tables) == ONE_MODEL
    for table in tables.values():
        rows = [(row.budget, row.method) for row in table.rows]
        expected = [(1.0, UNPRUNED), *((budget, line.name) for budget in BUDGETS for line in table.study.lines)]
        assert rows == expected
        assert all(len(row.able) == 2 and not row.cannot for row in table.rows[1:])
        assert all(result.on_budget for row in table.rows for result in row.results)
    assert [len(table.study.lines) for table in tables.values()] == [
        1 + 2 * len(PARTS), len(OBJECTIVES), 2, 1 + 2 + 1, 3
    ]  # fmt: skip


def test_what_studies_share_is_done_once(whole):
    _, stub, tables, store = whole
    names = {line.variant.name for table in tables.values() for line in table.study.lines}
    assert len(store.results) == 1 + len(names) * len(BUDGETS) * 2
    assert stub.answered == (len(store.results) - 1) * 20
    assert len({table.study.lines[0].variant.name for table in tables.values()}) == 1
    encoded = [(samples, objective) for samples, objective, _ in stub.evaluators]
    # By objective, of set 1, and of 2 and 6 samples.
    assert len(encoded) == len({str(one) for one in encoded}) == len(OBJECTIVES) + 1 + 2


def test_a_search_with_fewer_evaluations_is_the_beginning_of_the_longer_one(whole):
    out, stub, _, store = whole
    evaluations = sum(len(evaluator.calls) for _, _, evaluator in stub.evaluators)
    searches = list((out / "searches").glob("*.jsonl"))
    assert evaluations == len(searches) * EVALUATIONS
    short = found(store, whole[2]["effort"], "4 samples, 6 evaluations")
    long = found(store, whole[2]["effort"], "4 samples, 7 evaluations")
    assert short.score <= long.score


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_removed_is_the_only_change(part, whole):
    *_, tables, store = whole
    table, title = tables["components"], PARTS[part].title
    before, after = (
        Strategy.model_validate(found(store, table, name).strategy) for name in ("all parts", f"removed: {title}")
    )
    assert after.average_retention(LAYERS) == pytest.approx(0.25)
    if part == "stages":
        assert (after.schedule.boundaries, after.scorer, after.recycler) == ((0,), before.scorer, before.recycler)
    else:
        assert after.schedule == before.schedule
        assert values_of(after) == {**values_of(before), **PARTS[part].values}
    assert found(store, table, f"removed: {title}").score is None


@pytest.mark.parametrize("part", PARTS)
def test_a_search_without_a_part_never_tries_it(part, whole):
    out, _, tables, store = whole
    result = found(store, tables["components"], f"searched without {PARTS[part].title}")
    journals = list((out / "searches").glob(f"*without-{part}-0.25-0.jsonl"))
    entries = [line for path in journals for line in path.read_text().splitlines()[1:]]
    assert len(entries) == EVALUATIONS
    for entry in entries:
        tried = Strategy.model_validate(json.loads(entry)["strategy"])
        if part == "stages":
            assert tried.schedule.boundaries == (0,)
        else:
            assert values_of(tried).items() >= PARTS[part].values.items()
    assert result.score == max(json.loads(entry)["score"] for entry in entries)


def test_rows_are_compared_with_the_first_one_seed_by_seed(whole):
    *_, tables, store = whole
    table = tables["search"]
    row = next(row for row in table.rows if (row.method, row.budget) == ("random search", 0.25))
    ours = [found(store, table, "random search", seed=seed).accuracy for seed in (0, 1)]
    base = [found(store, table, "Bayesian search", seed=seed).accuracy for seed in (0, 1)]
    expected = 100 * (sum(ours) - sum(base)) / 2
    assert table.against(row).startswith(f"{expected:+.1f} (")
    assert table.against(table.rows[0]) == table.against(table.rows[1]) == ""


def test_killed_at_any_cell_it_goes_on_and_ends_the_same(whole, tmp_path):
    class KilledError(Exception):
        pass

    class Watch(Silent):
        def __init__(self, left):
            self.left = left

        def advance(self):
            self.left -= 1
            if self.left < 0:
                raise KilledError

    stub, names = Stub(), ["components", "search"]
    for left in (60, 150, 300):
        with pytest.raises(KilledError):
            fill(tmp_path, ablation(stub, names), watch=Watch(left))
    tables, store = fill(tmp_path, ablation(stub, names))
    assert all(store.results[cell] == whole[3].results[cell] for cell in store.results)
    assert [list(table.texts()) for table in tables.values()] == [list(whole[2][name].texts()) for name in names]
    calls = [call.to_json() for _, _, evaluator in stub.evaluators for call in evaluator.calls]
    assert len(calls) == len(list((tmp_path / "searches").glob("*.jsonl"))) * EVALUATIONS  # no evaluation was repeated
    before = stub.answered
    fill(tmp_path, ablation(stub, names))
    assert stub.answered == before


def test_studies_seeds_and_numbers_may_be_added(tmp_path):
    stub = Stub()
    fill(tmp_path, ablation(stub, ["search"], seeds=1))
    before = (tmp_path / "cells.jsonl").read_bytes()
    more = replace(PLAN, evaluation_counts=(6, 7, 8), sample_counts=())
    tables, _ = fill(tmp_path, ablation(stub, ["search", "effort"], more), plan=more)
    assert (tmp_path / "cells.jsonl").read_bytes().startswith(before)
    assert [line.name for line in tables["effort"].study.lines] == [
        "4 samples, 7 evaluations", "4 samples, 6 evaluations", "4 samples, 8 evaluations",
    ]  # fmt: skip


def test_fixed_variables_stay_fixed_and_are_no_part(tmp_path):
    fixed = replace(PLAN, fixed={"diversity": 0.0, "threshold": 2.0})
    tables, store = fill(tmp_path, ablation(Stub(), ["components"], fixed, seeds=1), plan=fixed)
    assert not [row for row in tables["components"].rows if "diversity" in row.method or "calibration" in row.method]
    for result in store.results.values():
        if result.strategy is not None:
            assert values_of(Strategy.model_validate(result.strategy)).items() >= fixed.fixed.items()


def test_journals_of_another_search_are_refused(tmp_path):
    fill(tmp_path, ablation(Stub(), ["search"], seeds=1))
    (tmp_path / "cells.jsonl").unlink()
    other = replace(PLAN, initial=5, iterations=2)
    with pytest.raises(JournalError, match="initial"):
        fill(tmp_path, ablation(Stub(), ["search"], other, seeds=1), plan=other)


def test_strategies_move_between_models_and_depths(tmp_path):
    deep = Stub(layers=12)
    own, other = ablation(Stub(), ["transfer"], others=["n"]), ablation(deep, ["transfer"], label="n", others=["m"])
    store = Store.open(tmp_path / "cells.jsonl", {}, {"m": "w", "n": "w"})
    tables = run([own, other], PLAN, store, judge=is_right, effort=Effort(rounds=0), out=tmp_path, watch=Silent())
    assert [table.model for table in tables] == ["m", "n"]
    for table, layers in zip(tables, (9, 12), strict=True):
        assert [line.name for line in table.study.lines] == [
            "searched for this model", f"searched for {'n' if table.model == 'm' else 'm'}",
        ]  # fmt: skip
        for budget in BUDGETS:
            here, there = (line.variant.name for line in table.study.lines)
            result = store.results[Cell(table.model, there, budget, 1)]
            source = store.results[Cell("n" if table.model == "m" else "m", here, budget, 1)]
            moved, searched = (Strategy.model_validate(one.strategy) for one in (result, source))
            assert moved.scorer == searched.scorer
            assert moved.average_retention(layers) == pytest.approx(budget, abs=1e-9)
            assert result.on_budget


def test_what_another_model_could_not_be_searched_for_cannot_be_used(tmp_path):
    class Picky(Stub):
        def evaluator(self, model, samples, *, objective="last-token", processor=None):
            from vflowopt.errors import BudgetError

            raise BudgetError("too small")

    store = Store.open(tmp_path / "cells.jsonl", {}, {"m": "w", "n": "w"})
    own = ablation(Stub(), ["transfer"], others=["n"], seeds=1)
    other = ablation(Picky(), ["transfer"], label="n", others=["m"], seeds=1)
    tables = run([own, other], PLAN, store, judge=is_right, effort=Effort(rounds=0), out=tmp_path, watch=Silent())
    assert [row.cannot for row in tables[0].rows if row.method == "searched for n"] == [
        "there is none for n: too small"
    ] * 2
    assert not [row.cannot for row in tables[1].rows if row.method == "searched for m" and row.cannot]
