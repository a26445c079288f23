"""The measurement of threads counts what it is told to, and names what goes wrong."""

import pytest

from vflowopt_reference.threads import answered, main


def test_every_outcome_is_counted():
    def ask(number):
        if number == 2:
            raise KeyError(number)
        return number % 2

    seen, seconds = answered(ask, [0, 1, 2, 0], workers=3, count=8)
    assert seen == {"right": 4, "KeyError": 2, "wrong": 2}
    assert seconds > 0


def test_unpruned_and_pruned_answers_are_those_of_one_thread(capsys):
    main(["--model", "reference", "--workers", "2", "--count", "4", "--rounds", "2"])
    unpruned, pruned = capsys.readouterr().out.splitlines()
    assert "unpruned  2 threads: 4 right; " in unpruned
    assert "pruned    2 threads: 4 right; " in pruned


def test_a_model_that_does_not_ship_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--model", "other"])
    assert "invalid choice: 'other'" in capsys.readouterr().err
