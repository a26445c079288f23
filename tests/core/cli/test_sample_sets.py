"""Sets of samples: which questions are in which."""

from vflowopt.adapter import Example
from vflowopt.cli.data import Question
from vflowopt.cli.sample_sets import file_sets, own_sets

LINES = [Question((), str(number)) for number in range(10)]


def texts(sets):
    return {name: [question.text for question in own] for name, own in sets.items()}


def test_one_file_is_cut_into_disjoint_parts_as_far_as_it_reaches():
    sets = texts(file_sets([LINES], 3, 5))
    assert list(sets) == ["set 0", "set 1", "set 2"]
    assert sets["set 0"] == [str(number) for number in range(10)]
    assert (sets["set 1"], sets["set 2"]) == (["3", "4", "5"], ["6", "7", "8"])
    assert list(file_sets([LINES], 3, 2)) == ["set 0", "set 1"]
    assert list(file_sets([LINES], 30, 5)) == ["set 0"]


def test_several_files_are_a_set_each():
    assert texts(file_sets([LINES[:2], LINES[2:5]], 3, 9)) == {"set 0": ["0", "1"], "set 1": ["2", "3", "4"]}


def draw(split, count, seed):
    assert split == "search"
    kinds = ("color", "digit", "rare")
    return [Example((), f"{seed}-{number}", "yes", kinds[2 if number == 0 else number % 2]) for number in range(count)]


def test_a_named_model_gives_a_set_per_seed_and_per_kind():
    sets = own_sets(draw, 4, 6, 2)
    assert list(sets) == ["set 0", "set 1", "only color", "only digit"]
    assert [len(own) for own in sets.values()] == [6, 4, 4, 4]
    assert [question.text for question in sets["set 1"]] == ["1-0", "1-1", "1-2", "1-3"]
    assert sets["set 0"][0].answers == ("yes",)
    texts = [question.text for own in sets.values() for question in own]
    assert len(texts) == len(set(texts))


def test_one_set_is_all_there_is_without_a_comparison_of_sets():
    assert list(own_sets(draw, 4, 6, 1)) == ["set 0"]


def test_questions_of_one_kind_make_no_further_set():
    assert list(own_sets(lambda *ask: [Example((), "?", "yes", "")] * ask[1], 4, 6, 2)) == ["set 0", "set 1"]
