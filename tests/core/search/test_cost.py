"""What a search reports of its own cost, and that resuming does not lose it."""

import time

import pytest

from core.search.synthetic import Synthetic
from vflowopt.adapter import Evaluation
from vflowopt.search import search
from vflowopt.search.result import HistoryEntry, SearchCost

SMALL = {"iterations": 1, "initial": 5}


class Timed(Synthetic):
    """Takes 4 ms per evaluation, 3 of which it calls prefills."""

    def evaluate(self, strategy):
        begun = time.perf_counter()
        found = super().evaluate(strategy)
        while time.perf_counter() - begun < 4e-3:
            pass
        return Evaluation(found.score, found.retention, found.nonfinite, decoder_seconds=3e-3)


def test_cost_is_split_into_prefills_the_rest_of_evaluations_and_proposals():
    result = search(Timed(), 0.25, **SMALL)
    cost = result.cost
    assert cost.evaluations == 6
    assert cost.decoder == pytest.approx(6 * 3e-3)
    assert cost.evaluating == pytest.approx(sum(entry.seconds for entry in result.history))
    assert cost.evaluating >= 6 * 4e-3
    assert cost.proposing > 0
    assert cost.overhead == pytest.approx((cost.evaluating + cost.proposing) / cost.decoder - 1)


def test_cost_in_words():
    assert str(SearchCost(evaluations=10, decoder=8.0, evaluating=9.0, proposing=1.0)) == (
        "1.00 s per evaluation: 800 ms of prefills, 100 ms of scoring and planning, 100 ms to choose it; 25.0 % over "
        "the prefills alone"
    )


def test_an_evaluator_that_measures_nothing_has_no_cost():
    assert search(Synthetic(), 0.25, **SMALL).cost is None


def test_times_survive_the_journal_and_do_not_identify_a_search(tmp_path):
    path = tmp_path / "run.jsonl"
    first = search(Timed(), 0.25, journal=path, **SMALL)
    assert search(Timed(), 0.25, journal=path, **SMALL).cost == first.cost
    # Evaluations that nobody timed, continued by an evaluator that tells times.
    untimed = tmp_path / "untimed.jsonl"
    assert search(Synthetic(), 0.25, journal=untimed, **SMALL).cost is None
    same = search(Timed(), 0.25, journal=untimed, **SMALL)
    assert same.history == first.history
    assert same.cost is None
    more = search(Timed(), 0.25, journal=untimed, iterations=2, initial=5)
    assert more.cost.evaluations == 1


def test_times_are_ignored_when_entries_are_compared():
    entry = search(Timed(), 0.25, iterations=0, initial=1).history[0]
    other = HistoryEntry.from_json(entry.to_json() | {"decoder_seconds": 9.0, "proposal_seconds": 9.0})
    assert other == entry
    assert (other.decoder_seconds, other.proposal_seconds) == (9.0, 9.0)
