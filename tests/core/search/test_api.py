"""The public calls: determinism, interruption, validation before work, and what they return."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

import vflowopt
from core.search.synthetic import Sampled, Synthetic, grid
from vflowopt import Progressive, Strategy
from vflowopt.adapter import Evaluation
from vflowopt.errors import (
    BudgetError,
    InputError,
    JournalError,
    StrategyError,
    UnsupportedOperationError,
    VFlowOptError,
)
from vflowopt.methods import FasterVLM, FastV
from vflowopt.search import OptimizeResult, SearchStep, optimize, random_search, search
from vflowopt.search import optimize as exported
from vflowopt.strategies.variables import values_of

SMALL = {"iterations": 2, "initial": 9}


def test_names_are_exported_lazily():
    assert vflowopt.optimize is exported
    assert vflowopt.OptimizeResult is OptimizeResult


@pytest.mark.parametrize("budget", [0.5, 0.25, 0.1])
def test_history_of_a_search(budget):
    evaluator = Synthetic()
    result = search(evaluator, budget, iterations=2, initial=10)
    assert [entry.index for entry in result.history] == list(range(12))
    origins = [entry.origin for entry in result.history]
    preset = f"llava-onevision-7b/{budget * 100:.0f}"
    starts = ["mean-attention", "divprune-mass", "divprune-halving", "diverse-early", "scope-mass", "diverse-halving"]
    starts += [preset, "calibrated-halving"]
    assert origins == [f"start:{name}" for name in starts] + ["initial", "initial", "search", "search"]
    for entry, called in zip(result.history, evaluator.calls, strict=True):
        assert entry.strategy == called
        assert entry.score == evaluator.true(called)
        assert abs(called.average_retention(9) - budget) <= 1e-9
        assert entry.seconds > 0
    assert not result.interrupted
    assert result.notes == ()
    assert result.best in result.history
    assert result.front.budgets == pytest.approx((budget,))
    assert result.best_so_far == tuple(itertools.accumulate((e.score for e in result.history), max))


def test_the_same_seed_gives_the_same_history():
    first, second = (search(Synthetic(noise=0.01), 0.25, seed=5, **SMALL) for _ in range(2))
    assert first.history == second.history
    assert first.strategy == second.strategy
    assert search(Synthetic(noise=0.01), 0.25, seed=6, **SMALL).history[8:] != first.history[8:]


def test_without_noise_the_result_is_no_worse_than_any_known_good_start():
    result = search(Synthetic(), 0.25, iterations=4, initial=10)
    assert result.best.score >= max(e.score for e in result.history if e.origin.startswith("start:"))


def test_the_strategy_carries_its_provenance(tmp_path):
    result = search(Synthetic(), 0.25, seed=4, objective="mean-pooling", model_name="tiny", **SMALL)
    provenance = result.strategy.provenance
    assert (provenance.model, provenance.budget, provenance.num_layers) == ("tiny", 0.25, 9)
    assert (provenance.objective, provenance.samples) == ("mean-pooling", 1)
    assert (provenance.seed, provenance.evaluations) == (4, 11)
    assert provenance.score == result.best.score
    assert {"numpy", "scipy", "emukit"} <= set(provenance.versions)
    assert provenance.versions["numpy"] == np.__version__
    assert Strategy.load(result.strategy.save(tmp_path / "best.json")) == result.strategy
    assert result.strategy.with_provenance(None) == result.best.strategy


def test_of_equal_scores_the_first_is_best():
    class Flat(Synthetic):
        def true(self, strategy):
            return 0.9

    result = search(Flat(), 0.25, **SMALL)
    assert result.best.index == 0
    assert len({entry.unit for entry in result.history}) == 11


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_the_worst(bad):
    class Broken(Synthetic):
        def evaluate(self, strategy):
            evaluation = super().evaluate(strategy)
            return Evaluation(bad, evaluation.retention) if len(self.calls) % 3 == 1 else evaluation

    result = search(Broken(), 0.25, **SMALL)
    for index, entry in enumerate(result.history):
        assert (entry.score == -1.0) == (index % 3 == 0)
        assert entry.nonfinite == (index % 3 == 0)
    assert result.best.index % 3 != 0


class Interrupted(Synthetic):
    """Ctrl-C during evaluation number ``after``."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def evaluate(self, strategy):
        if len(self.calls) == self.after:
            raise KeyboardInterrupt
        return super().evaluate(strategy)


@pytest.mark.parametrize("after", [1, 5, 10])
def test_ctrl_c_returns_the_best_so_far_and_the_journal_resumes(tmp_path, after):
    path = tmp_path / "run.jsonl"
    whole = search(Synthetic(), 0.25, **SMALL)
    result = search(Interrupted(after), 0.25, journal=path, **SMALL)
    assert result.interrupted
    assert result.history == whole.history[:after]
    assert result.strategy.provenance.evaluations == after
    assert result.best in result.history
    resumed = search(Synthetic(), 0.25, journal=path, **SMALL)
    assert resumed.history == whole.history
    assert not resumed.interrupted


def test_ctrl_c_before_anything_was_found_is_raised():
    with pytest.raises(KeyboardInterrupt):
        search(Interrupted(0), 0.25, **SMALL)


def test_other_errors_of_the_evaluator_are_raised_and_the_journal_keeps_the_rest(tmp_path):
    class Broken(Interrupted):
        def evaluate(self, strategy):
            if len(self.calls) == 3:
                raise RuntimeError("out of memory")
            return super().evaluate(strategy)

    with pytest.raises(RuntimeError, match="out of memory"):
        search(Broken(99), 0.25, journal=tmp_path / "run.jsonl", **SMALL)
    evaluator = Synthetic()
    search(evaluator, 0.25, journal=tmp_path / "run.jsonl", **SMALL)
    assert len(evaluator.calls) == 8


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"budget": 0.0}, BudgetError, "average retention"),
        ({"budget": math.nan}, BudgetError, "average retention"),
        ({"iterations": -1}, InputError, "iterations must be a whole number of at least 0"),
        ({"iterations": 2.5}, InputError, "iterations must be"),
        ({"initial": 0}, InputError, "initial must be a whole number of at least 1"),
        ({"seed": -1}, InputError, "seed must be"),
        ({"seed": "0"}, InputError, "seed must be"),
        ({"stages": [0.5]}, InputError, "a stage must be"),
        ({"stages": [3, 0]}, StrategyError, "increasing"),
        ({"stages": [0, 9]}, StrategyError, "last decoder layer"),
        ({"stages": []}, StrategyError, "one or more"),
        ({"starts": [Strategy.preset("llava-onevision-7b/25")] * 10}, InputError, "raise initial to at least 10"),
        ({"starts": ["ov-25.json"]}, StrategyError, "starts must be strategies or fronts"),
        ({"starts": [Strategy(scorer=FasterVLM(), schedule=Progressive.flat(0.25))]}, StrategyError, "'fastervlm'"),
        ({"budget": []}, BudgetError, "one or more different"),
        ({"budget": [0.5, 0.5]}, BudgetError, "one or more different"),
        ({"budget": [0.5, 2.0]}, BudgetError, "average retention"),
        ({"fresh": -1}, InputError, "fresh must be"),
        ({"fresh": 1}, UnsupportedOperationError, "set fresh to 0"),
        ({"plateau": 1.5}, InputError, "plateau must be a number in"),
        ({"plateau": "never"}, InputError, "plateau must be a number in"),
        ({"fixed": {"scorer": "guess"}}, StrategyError, "divprune, mmr, scope, not 'guess'"),
        ({"fixed": {"mass": "all"}}, StrategyError, "mass from 0 to 1, not 'all'"),
    ],
)
def test_arguments_are_checked_before_any_evaluation(changes, error, message):
    evaluator = Synthetic()
    with pytest.raises(error, match=message):
        search(evaluator, **{"budget": 0.25, **SMALL, **changes})
    assert evaluator.calls == []
    assert issubclass(error, VFlowOptError)


@pytest.mark.parametrize("units", [[], [[]], [[grid(0, 0)]]])
def test_samples_without_visual_tokens_are_refused(units):
    with pytest.raises(InputError, match="none of the samples has a visual token"):
        search(Synthetic(units=units), 0.25, **SMALL)


def test_own_starts_come_first_at_the_budget():
    own = Strategy.vflowopt(num_layers=28, retention=(0.8, 0.5, 0.5), threshold=7.0, cell=4.0)
    result = search(Synthetic(), 0.25, starts=iter([own]), **SMALL)
    assert [entry.origin for entry in result.history[:2]] == ["start:given-0", "initial"]
    first = result.history[0].strategy
    assert first.scorer.threshold == pytest.approx(7.0)
    assert first.recycler.cell == pytest.approx(4.0)
    np.testing.assert_allclose(first.schedule.retention[1:], (0.5, 0.5))
    assert first.average_retention(9) == pytest.approx(0.25, abs=1e-12)


def test_starts_count_in_initial():
    result = search(Synthetic(), 0.25, iterations=1, initial=1)
    assert [entry.origin for entry in result.history] == ["start:mean-attention", "search"]


@pytest.mark.parametrize("stages", [(0,), (4,), (0, 2), (0, 2, 4, 6), (1, 2, 3, 4)])
def test_any_number_of_stages(stages):
    result = search(Synthetic(), 0.6, stages=stages, **SMALL)
    for entry in result.history:
        assert isinstance(entry.strategy.schedule, Progressive)
        assert entry.strategy.schedule.stages == stages
        assert abs(entry.strategy.average_retention(9) - 0.6) <= 1e-9


def test_random_search_draws_from_the_same_space():
    result = random_search(Synthetic(), 0.25, evaluations=5, seed=1)
    assert {entry.origin for entry in result.history} == {"random"}
    assert all(abs(entry.strategy.average_retention(9) - 0.25) <= 1e-9 for entry in result.history)
    assert random_search(Synthetic(), 0.25, evaluations=7, seed=1).history[:5] == result.history


@pytest.fixture
def adapter(monkeypatch):
    """An adapter that hands out a synthetic evaluator and records how it was asked."""

    class Fake:
        asked = None

        def num_layers(self, model):
            return 9

        def evaluator(self, model, samples, *, objective, processor):
            self.asked = (model, list(samples), objective, processor)
            return Synthetic()

    fake = Fake()
    monkeypatch.setattr("vflowopt.search.api.find_adapter", lambda model: fake)
    return fake


def test_optimize_asks_the_adapter(adapter):
    model = SimpleNamespace(config=SimpleNamespace(_name_or_path="org/model"))
    result = optimize(model, iter(["sample"]), 0.25, objective="first-token", processor="p", **SMALL)
    assert adapter.asked == (model, ["sample"], "first-token", "p")
    assert result.history == search(Synthetic(), 0.25, **SMALL).history
    assert result.strategy.provenance.model == "org/model"
    assert result.strategy.provenance.objective == "first-token"


def test_optimize_takes_an_evaluator_built_before(adapter):
    result = optimize(None, (), 0.25, evaluator=Synthetic(), **SMALL)
    assert adapter.asked is None
    assert result.history == search(Synthetic(), 0.25, **SMALL).history


@pytest.mark.parametrize("changes", [{"budget": 2.0}, {"initial": 0}, {"stages": [0, 9]}])
def test_optimize_checks_before_it_encodes_samples(adapter, changes):
    with pytest.raises(VFlowOptError):
        optimize(None, [], **{"budget": 0.25, **SMALL, **changes})
    assert adapter.asked is None


def test_optimize_looks_at_the_journal_before_it_encodes_samples(adapter, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine\n")
    with pytest.raises(JournalError):
        optimize(None, [], 0.25, journal=path, **SMALL)
    assert adapter.asked is None
    assert path.read_text() == "mine\n"


def test_progress_sees_every_evaluation(tmp_path):
    steps: list[SearchStep] = []
    path = tmp_path / "run.jsonl"
    search(Interrupted(3), 0.25, journal=path, **SMALL)
    result = search(Synthetic(), 0.25, journal=path, progress=steps.append, **SMALL)
    assert [step.entry for step in steps] == list(result.history)
    assert [step.done for step in steps] == list(range(1, 12))
    assert [step.resumed for step in steps] == [True] * 3 + [False] * 8
    assert [step.best.score for step in steps] == list(result.best_so_far)
    assert all(step.total == 11 and step.budget == 0.25 for step in steps)
    assert steps[-1].seconds_left == 0 < steps[0].seconds_left


def test_what_takes_no_search_is_told_apart():
    result = search(Synthetic(), 0.25, iterations=2, initial=12)
    assert result.unsearched == {
        "mean-attention": (result.history[0].score,),
        "drawn": tuple(entry.score for entry in result.history if entry.origin == "initial"),
    }
    assert result.history[0].origin == "start:mean-attention"
    assert len(result.unsearched["drawn"]) >= 3


def test_one_search_for_several_budgets_takes_them_in_turns():
    evaluator = Synthetic()
    result = search(evaluator, [0.1, 0.5, 0.25], iterations=9, initial=9)
    assert [entry.budget for entry in result.history] == [0.5, 0.25, 0.1] * 6
    for entry in result.history:
        assert entry.strategy.average_retention(9) == pytest.approx(entry.budget, abs=1e-9)
    assert [chosen.budget for chosen in result.selected] == [0.5, 0.25, 0.1]
    budgets = result.front.budgets
    assert {0.5, 0.25, 0.1} <= {round(budget, 9) for budget in budgets}
    assert max(a / b for a, b in itertools.pairwise(budgets)) <= 1.25 + 1e-6
    for chosen in result.selected:
        assert result.front.at(chosen.budget).with_provenance(None) == chosen.entry.strategy
        assert result.front.at(chosen.budget).provenance.budget == chosen.budget
    chosen = {values_of(one.entry.strategy)["threshold"] for one in result.selected}
    assert {values_of(strategy)["threshold"] for strategy in result.front} <= chosen
    assert result.strategy == result.front.at(0.5)
    assert [entry.origin for entry in result.history[:6]] == ["start:mean-attention"] * 3 + ["start:divprune-mass"] * 3
    assert len(search(evaluator, [0.5, 0.1], plateau=0).history) == 80


def test_a_search_may_begin_with_a_front_or_a_strategy_of_another_depth():
    front = search(Synthetic(), [0.5, 0.25], iterations=2, initial=8).front
    both = search(Synthetic(), [0.4, 0.2], iterations=0, initial=4, starts=[front, front.at(0.3)])
    assert [entry.origin for entry in both.history] == [f"start:given-{index}" for index in (0, 0, 1, 1)]
    assert [entry.budget for entry in both.history] == [0.4, 0.2, 0.4, 0.2]
    with pytest.raises(InputError, match=r"2 starting strategies at 2 budgets do not fit .* at least 4"):
        search(Synthetic(), [0.4, 0.2], iterations=0, initial=3, starts=[front, front.at(0.3)])
    deeper = search(Synthetic(num_layers=28), 0.15, iterations=0, initial=2, starts=[front, front.at(0.3)])
    assert [entry.origin for entry in deeper.history] == ["start:given-0", "start:given-1"]
    for entry in deeper.history:
        assert entry.strategy.schedule.stages == (0, 9, 18)
        assert entry.strategy.average_retention(28) == pytest.approx(0.15, abs=1e-9)
    assert values_of(deeper.history[0].strategy) == values_of(front.at(0.25))
    flat = Strategy.vflowopt(num_layers=9, retention=(0.5,), stages=(0,), threshold=2.0)
    other = search(Synthetic(), 0.25, iterations=0, initial=1, starts=[flat]).history[0].strategy
    assert other.schedule.cumulative == pytest.approx((0.25, 0.25, 0.25))


def test_the_best_few_race_on_samples_that_the_search_did_not_see():
    evaluator = Sampled(samples=30, noise=0.3)
    result = search(evaluator, 0.25, iterations=4, initial=10)
    seen = tuple(range(20))
    assert [samples for _, samples in evaluator.asked[:14]] == [seen] * 14
    assert all(set(samples) <= set(range(20, 30)) for _, samples in evaluator.asked[14:])
    (chosen,) = result.selected
    fresh = [evaluator.similarity(result.best.strategy, sample) for sample in range(20, 30)]
    assert chosen.fresh == pytest.approx(np.mean(fresh))
    assert chosen.entry.score == pytest.approx(np.mean([evaluator.similarity(result.best.strategy, s) for s in seen]))
    assert len(result.heats) == len(evaluator.asked) - 14
    assert chosen.within is None or chosen.within > 0
    assert len({heat.entry for heat in result.heats}) <= 6


def test_whoever_is_ahead_on_easy_samples_runs_on_the_hard_ones_too():
    """The paper's scorer is a little better on the first fresh samples, and fails on the last."""

    class Fragile(Sampled):
        def similarity(self, strategy, sample):
            fragile = values_of(strategy)["scorer"] == "calibrated-attention"
            if sample < 20:
                return 0.9
            return (0.99 if sample < 24 else 0.0) if fragile else 0.95

    evaluator = Fragile(samples=30)
    result = search(evaluator, 0.25, iterations=0, initial=10)
    (chosen,) = result.selected
    assert values_of(result.strategy)["scorer"] != "calibrated-attention"
    assert chosen.fresh == pytest.approx(0.95)
    raced = {heat.entry for heat in result.heats}
    assert len(raced) == 6
    for entry in raced:
        parts = [heat.samples for heat in result.heats if heat.entry == entry]
        assert [sample for part in parts for sample in part] == list(range(20, 30))
    fragile = {e.index for e in result.history if values_of(e.strategy)["scorer"] == "calibrated-attention"}
    assert set(chosen.equal) == raced - fragile - {chosen.entry.index}


def test_a_search_ranks_anew_inside_the_decoder_where_that_helps_and_the_evaluator_can():
    class Anew(Synthetic):
        def true(self, strategy):
            return super().true(strategy) - 0.1 * (strategy.rescorer is None)

        def can_rescore(self, stages):
            return 3 in stages

    assert search(Anew(), 0.25, iterations=6, initial=10).strategy.rescorer == FastV()
    for evaluator, stages in ((Synthetic(), None), (Anew(), [0]), (Anew(), [0, 4])):
        found = search(evaluator, 0.25, iterations=2, initial=8, stages=stages)
        assert {entry.strategy.rescorer for entry in found.history} == {None}
        with pytest.raises(StrategyError, match="rescorer is fixed at fastv, but of the stages"):
            search(evaluator, 0.25, iterations=2, initial=8, stages=stages, fixed={"rescorer": "fastv"})


def test_a_lucky_evaluation_is_not_taken():
    """One strategy is far better than it ought to be on the samples of the search, and ordinary on all others."""

    class Lucky(Sampled):
        def similarity(self, strategy, sample):
            lucky = values_of(strategy)["scorer"] == "divprune" and sample < 20
            return super().similarity(strategy, sample) + (0.05 if lucky else 0.0)

    evaluator = Lucky(samples=40, noise=0.1)
    result = search(evaluator, 0.25, iterations=8, initial=10, fresh=20)
    luckiest = max(result.history, key=lambda entry: entry.score)
    assert evaluator.true(result.strategy) >= evaluator.true(luckiest.strategy)


def test_a_search_ends_on_the_plateau_and_says_what_that_saved():
    class Flat(Synthetic):
        def true(self, strategy):
            return 0.9

    result = search(Flat(), 0.25, iterations=20, initial=8, plateau=0.5)
    assert (len(result.history), result.saved) == (11, 17)
    assert [entry.expected is not None for entry in result.history] == [False] * 8 + [True] * 3
    assert search(Flat(), 0.25, iterations=4, initial=8, plateau=0).saved == 0


@pytest.mark.parametrize("fresh", [12, 20])
def test_holding_back_all_samples_is_refused(fresh):
    with pytest.raises(InputError, match="cannot be held back"):
        search(Sampled(samples=12), 0.25, fresh=fresh, **SMALL)


def test_ctrl_c_in_a_race_leaves_the_choice_to_the_model(tmp_path):
    class Stopped(Sampled):
        def evaluate_on(self, strategy, samples):
            if samples[0] >= 8:
                raise KeyboardInterrupt
            return super().evaluate_on(strategy, samples)

    path = tmp_path / "run.jsonl"
    result = search(Stopped(samples=12, noise=0.1), 0.25, journal=path, **SMALL)
    assert result.interrupted
    assert (len(result.history), result.heats, result.selected[0].fresh) == (11, (), None)
    evaluator = Sampled(samples=12, noise=0.1)
    resumed = search(evaluator, 0.25, journal=path, **SMALL)
    assert not resumed.interrupted
    assert resumed.history == result.history
    assert len(evaluator.asked) == len(resumed.heats) > 0
