"""Which strategies vLLM can carry out: each refusal names what was given and what to do."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoConfig

from vflowopt import GridRecycler, Progressive, Strategy
from vflowopt.components.mass import LogMass
from vflowopt.scorer import CalibratedAttention
from vflowopt_reference import path
from vflowopt_vllm.architectures import BY_UPSTREAM
from vflowopt_vllm.errors import ServingError
from vflowopt_vllm.request import KEY, Request, fingerprint, resolved, retained, strategy_in

ONE = Progressive(stages=(0,), retention=(0.25,))
TWO = Progressive(stages=(0, 3), retention=(0.6, 0.5))
ATTENTION = CalibratedAttention(threshold=1.2)


def resolve(request, model="reference-qwen2vl"):
    config = AutoConfig.from_pretrained(path(model))
    return Request.of(request).resolve(BY_UPSTREAM[config.architectures[0]].family(), config)


@pytest.fixture
def saved(tmp_path):
    """Path of a strategy's file."""
    return lambda **parts: str(Strategy(**{"scorer": ATTENTION} | parts).save(tmp_path / "mine.json"))


def test_a_file_is_served_as_it_is(saved):
    strategy = Strategy(scorer=ATTENTION, schedule=ONE, recycler=GridRecycler(cell=2.5))
    assert resolve(saved(schedule=ONE, recycler=GridRecycler(cell=2.5))) == strategy


@pytest.mark.parametrize("budget", [0.25, "0.25"])
def test_a_budget_means_the_best_without_mass(budget):
    strategy = resolve(budget)
    assert strategy.mass is None
    assert strategy.schedule.boundaries == (0,)
    assert strategy.average_retention(9) == 0.25


def test_one_stage_of_the_same_average(saved):
    given = saved(schedule=TWO)
    with pytest.raises(
        ServingError, match=r"mine\.json' prunes before decoder layers 0, 3, .*--stages.*\"one_stage\": true"
    ):
        resolve(given)
    strategy = resolve({"strategy": given, "one_stage": True})
    assert strategy.schedule.stages == (0,)
    assert strategy.schedule.retention == pytest.approx(((3 * 0.6 + 6 * 0.3) / 9,))
    assert strategy.scorer == ATTENTION


def test_one_stage_leaves_one_stage_alone(saved):
    assert resolve({"strategy": saved(schedule=ONE), "one_stage": True}).schedule == ONE


def test_without_mass(saved):
    given = saved(schedule=ONE, mass=LogMass(gamma=1.0))
    with pytest.raises(ServingError, match=r"mine\.json' has mass, .*\"without_mass\": true"):
        resolve(given)
    assert resolve({"strategy": given, "without_mass": True}) == Strategy(scorer=ATTENTION, schedule=ONE)


@pytest.mark.parametrize(
    ("strategy", "model", "told"),
    [
        ("nothing.json", "reference", "nothing.json"),
        ("nothing@0.5", "reference", "nothing"),
        (1.5, "reference", "1.5"),
        ("cdpruner@0.25", "reference", "scorer 'cdpruner' of strategy 'cdpruner@0.25' needs text; .* another scorer"),
        ("fastv@0.25", "reference", "'fastv@0.25' prunes before decoder layer"),
        ("fastervlm@0.25", "reference-qwen2vl", "'fastervlm' of strategy .* needs class-attention; .* another scorer"),
        ("vtc-cls@0.25", "reference-next", "'vtc-cls' of strategy .* needs class attention of several vision layers"),
    ],
)
def test_what_cannot_be_served(strategy, model, told):
    with pytest.raises(ServingError, match=told) as caught:
        resolve(strategy, model)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_class_token_is_offered_where_there_is_one():
    assert resolve("fastervlm@0.25", "reference-next").scorer.component_name() == "fastervlm"


class ByContent(Progressive):
    """Shares what is retained among images by what is in them."""

    def unit_counts(self, units):
        raise NotImplementedError


def test_counts_that_depend_on_what_is_in_an_image():
    strategy = Strategy.model_construct(scorer=ATTENTION, schedule=ByContent(stages=(0,), retention=(0.25,)))
    with pytest.raises(ServingError, match=r"shares tokens among .* take a schedule .*'progressive'"):
        resolve(strategy)


def test_a_strategy_that_is_in_no_file():
    strategy = Strategy(scorer=ATTENTION, schedule=TWO)
    override = Request(strategy, one_stage=True).override
    assert Request.of(json.loads(json.dumps(override))) == Request(strategy, one_stage=True)
    assert Request.of(Request(strategy).override) == Request(strategy)
    with pytest.raises(ServingError, match="treshold"):
        Request.of(resolved(strategy) | {"scorer": {"name": "calibrated-attention", "treshold": 1.2}})


def test_a_path_is_no_preset_and_does_not_depend_on_the_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Request(Path("mine.json")).override == str(tmp_path / "mine.json")


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"one_stage": True},
        {"strategy": "mine.json", "one_stage": "yes"},
        {"strategy": "mine.json", "stages": 1},
        {"strategy": {"scorer": "random"}},
    ],
)
def test_a_malformed_request(value):
    with pytest.raises(ServingError, match="is no request: give a strategy file, a preset or a budget"):
        Request.of(value)


@pytest.mark.parametrize(
    "request_", ["mine.json", 0.25, {"strategy": "a@0.5", "one_stage": True, "without_mass": True}]
)
def test_an_override_is_read_as_it_was_written(request_):
    assert Request.of(request_).override == request_


def test_the_configuration_holds_the_strategy():
    strategy = Strategy(scorer=ATTENTION, schedule=ONE)
    config = SimpleNamespace(**{KEY: resolved(strategy)})
    assert strategy_in(config) == strategy
    assert [retained(config, tokens) for tokens in (1, 4, 100, 101)] == [
        strategy.schedule.counts(n)[0] for n in (1, 4, 100, 101)
    ]


def test_fingerprints_tell_strategies_apart():
    strategies = [
        Strategy(scorer=ATTENTION, schedule=ONE),
        Strategy(scorer=CalibratedAttention(threshold=1.3), schedule=ONE),
        Strategy(scorer=ATTENTION, schedule=Progressive.flat(0.26)),
        Strategy(scorer=ATTENTION, schedule=ONE, recycler=GridRecycler(cell=2.5)),
    ]
    prints = [fingerprint(SimpleNamespace(**{KEY: resolved(strategy)})) for strategy in strategies]
    assert len(set(prints)) == len(strategies)
    assert prints[0] == fingerprint(SimpleNamespace(**{KEY: resolved(Strategy(scorer=ATTENTION, schedule=ONE))}))
