"""What the studies ask, without asking it."""

import pytest

from vflowopt.ablation import MAIN_SET, OBJECTIVES, PARTS, STUDIES, Plan, Recipe, Variant, studies_of
from vflowopt.strategies.variables import VARIABLES


def lines(name, plan=None, **scope):
    (study,) = studies_of([name], plan or Plan(), **scope)
    return {line.name: line.variant for line in study.lines}


def test_every_study_begins_with_the_search_as_users_run_it():
    base = Variant(Recipe(30, 60))
    for name in STUDIES:
        assert next(iter(lines(name).values())) == base


def test_numbers_are_those_of_the_papers_figure():
    recipes = [variant.recipe for variant in lines("effort").values()]
    assert {recipe.samples for recipe in recipes} == {5, 10, 20, 30, 60}
    assert {recipe.evaluations for recipe in recipes} == {10, 20, 40, 60}


def test_no_search_has_more_samples_than_there_are():
    plan = Plan().within(20)
    assert (plan.samples, plan.sample_counts, plan.most_samples) == (20, (5, 10, 20), 20)
    assert Plan().within(100) == Plan()


def test_every_variable_of_the_search_is_of_a_part():
    assert {name for part in PARTS.values() for name in part.values} == set(VARIABLES)


def test_variants_have_names_of_their_own():
    names = [
        line.variant.name
        for study in studies_of(STUDIES, Plan(), [MAIN_SET, "set 1", "only digits"], ["n", "o"])
        for line in study.lines
    ]
    distinct = {line.variant for study in studies_of(STUDIES, Plan(), [MAIN_SET, "set 1", "only digits"], ["n", "o"])
                for line in study.lines}  # fmt: skip
    assert len(set(names)) == len(distinct)


def test_searches_that_differ_in_length_only_share_a_journal():
    assert Recipe(30, 10).journal == Recipe(30, 60).journal
    others = [
        Recipe(20, 60), Recipe(30, 60, sample_set="set 1"), Recipe(30, 60, objective="first-token"),
        Recipe(30, 60, kind="random"), Recipe(30, 60, without="entropy"), Recipe(30, 60),
    ]  # fmt: skip
    assert len({recipe.journal for recipe in others}) == len(others)


def test_objectives_are_those_of_the_runtime():
    evaluator = pytest.importorskip("vflowopt_hf.search.evaluator")
    assert tuple(evaluator.OBJECTIVES) == OBJECTIVES
