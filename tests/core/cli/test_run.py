"""How ``vflowopt run`` takes its times: of one warm answer."""

from contextlib import nullcontext

import pytest

from vflowopt.cli import run as command


class Loaded:
    """A model that is slow at first, on a clock of its own: the prefill takes 10 s, each token 1 s."""

    def __init__(self):
        self.now, self.longest = 0.0, 0

    def perf_counter(self):
        return self.now

    def generate(self, inputs, length, on_token=None):
        self.now += 10
        for _ in range(length):
            self.now += 1
            if on_token is not None:
                on_token()
        self.now += 500 * max(0, length - self.longest)  # what is done for the first time
        self.longest = max(self.longest, length)
        return "red"


@pytest.mark.parametrize("length", [1, 5])
def test_the_first_token_and_the_answer_are_of_one_warm_run(monkeypatch, length):
    loaded = Loaded()
    monkeypatch.setattr(command, "time", loaded)
    for _ in range(2):  # the first row and the second
        assert command._ask(loaded, {}, length, nullcontext()) == command.Answer("red", 11, 10 + length)
