"""What is remembered is bounded, and forgotten in the order in which it was last asked for."""

import threading
from concurrent.futures import ThreadPoolExecutor

from vflowopt.memory import Memory


def test_the_value_asked_for_longest_ago_is_forgotten():
    made, memory = [], Memory(2)

    def ask(key):
        return memory.get(key, lambda: made.append(key) or f"value of {key}")

    assert [ask(key) for key in "abab"] == ["value of a", "value of b"] * 2
    ask("c")  # b was asked for last
    ask("b")
    assert made == ["a", "b", "c"]
    ask("a")
    assert made == ["a", "b", "c", "a"]
    assert len(memory) == 2


def test_threads_that_make_a_value_at_once_get_one_and_the_same():
    memory, together = Memory(4), threading.Barrier(4)

    def make():
        together.wait(60)  # nobody finds it made
        return object()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: memory.get("key", make), range(4)))
    assert len(set(map(id, found))) == 1
