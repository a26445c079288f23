"""A single process, and adapters that know nothing of others."""

from contextlib import contextmanager

from vflowopt.search.processes import Alone, SpreadingAdapter, processes_of


def test_alone_does_everything_itself():
    alone, evaluator = Alone(), object()
    assert (alone.rank, alone.size) == (0, 1)
    assert alone.own([3, 1, 2]) == [3, 1, 2]
    assert alone.evaluator(lambda: evaluator) is evaluator
    assert alone.lead(evaluator, lambda: "found") == "found"


def test_processes_are_the_adapters_or_just_this_one():
    class Spreading:
        @contextmanager
        def processes(self):
            yield "two of them"

    assert isinstance(Spreading(), SpreadingAdapter)
    with processes_of(Spreading()) as processes:
        assert processes == "two of them"
    with processes_of(object()) as processes:
        assert processes == Alone()
