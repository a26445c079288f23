"""Strategies as values and as files: round trips, presets, and one typed error for everything that is not one."""

import json
import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from oracles.retention import average_retention
from vflowopt import CalibratedAttention, GridRecycler, Progressive, Provenance, Strategy, VFlowOptError
from vflowopt.errors import OutputError, StrategyError
from vflowopt.methods import DivPrune, FastV, PyramidDrop
from vflowopt.plans.competitors import SEPARATORS
from vflowopt.strategies.shipped import preset_names
from vflowopt.strategies.strategy import components_of
from vflowopt.testing import schedules, separators

VALID = {
    "format": "vflowopt/strategy/1",
    "scorer": {"name": "calibrated-attention", "threshold": 34.76, "entropy_weight": 0.0, "diversity": 0.0},
    "schedule": {"name": "progressive", "stages": [0, 9, 18], "retention": [0.2651, 0.9833, 0.8773]},
    "recycler": {"name": "grid", "cell": 15.58},
    "separators": "merge",
    "provenance": {
        "model": "m",
        "budget": 0.25,
        "num_layers": 28,
        "objective": "last-token",
        "score": 0.98,
        "samples": 30,
        "seed": 0,
        "versions": {"vflowopt": "0.1.0"},
    },
}


@st.composite
def strategies(draw):
    """Any strategy of core components."""
    stages, ratios, num_layers = draw(schedules())
    provenance = draw(
        st.none()
        | st.builds(
            Provenance,
            model=st.none() | st.text(max_size=5),
            score=st.none() | st.floats(allow_nan=False, allow_infinity=False),
            seed=st.none() | st.integers(),
            versions=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
        )
    )
    return Strategy.vflowopt(
        num_layers=num_layers,
        stages=stages,
        retention=ratios,
        threshold=draw(st.floats(0, 1e6)),
        entropy_weight=draw(st.floats(0, 1e6)),
        diversity=draw(st.floats(0, 1)),
        cell=draw(st.none() | st.floats(1, 1e6)),
        separators=draw(separators),
    ).model_copy(update={"provenance": provenance})


@given(strategy=strategies())
def test_a_saved_strategy_loads_to_an_equal_one(strategy, tmp_path_factory):
    path = tmp_path_factory.mktemp("strategies") / "strategy.json"
    assert strategy.save(path) == path
    assert Strategy.load(path) == strategy
    assert Strategy.load(str(path)).to_json() == strategy.to_json()
    assert [entry.name for entry in path.parent.iterdir()] == ["strategy.json"]


def test_the_documented_file_is_a_strategy_and_its_own_model():
    strategy = Strategy.model_validate(VALID)
    assert strategy == Strategy.parse(json.dumps(VALID))
    assert strategy == Strategy(
        scorer=CalibratedAttention(threshold=34.76),
        schedule=Progressive(stages=(0, 9, 18), retention=(0.2651, 0.9833, 0.8773)),
        recycler=GridRecycler(cell=15.58),
        separators="merge",
        provenance=Provenance(**VALID["provenance"]),
    )
    assert json.loads(strategy.to_json()) == VALID
    assert [part.kind for part in components_of(strategy)] == ["scorer", "schedule", "recycler"]


def test_a_file_without_diversity_has_none():
    scorer = {name: value for name, value in VALID["scorer"].items() if name != "diversity"}
    assert Strategy.model_validate({**VALID, "scorer": scorer}) == Strategy.model_validate(VALID)


def test_a_scorer_that_ranks_inside_the_decoder_takes_no_rescorer():
    schedule = Progressive(stages=(1,), retention=(0.5,))
    with pytest.raises(ValueError, match="scorer 'fastv' ranks anew inside the decoder by itself: leave rescorer 'pyr"):
        Strategy(scorer=FastV(), schedule=schedule, rescorer=PyramidDrop())
    with pytest.raises(StrategyError, match=r"rescorer: .*StageScorer"):
        Strategy(scorer=FastV(), schedule=schedule, rescorer=DivPrune())
    both = Progressive(stages=(0, 1), retention=(0.5, 0.5))
    for scorer, rescorer, ranks in ((FastV(), None, FastV()), (DivPrune(), FastV(), FastV()), (DivPrune(), None, None)):
        strategy = Strategy(scorer=scorer, schedule=both if rescorer else schedule, rescorer=rescorer)
        assert strategy.stage_scorer == ranks
        assert ("rescorer=fastv()" in repr(strategy)) == ("rescorer" in strategy.to_json()) == (rescorer is not None)
        assert Strategy.parse(strategy.to_json()) == strategy


def test_a_rescorer_leaves_something_to_the_scorer():
    message = (
        "rescorer 'fastv' ranks at all stages inside the decoder, and the first is before layer 3: nothing is left"
    )
    with pytest.raises(StrategyError, match=message):
        Strategy(scorer=DivPrune(), schedule=Progressive(stages=(3, 6), retention=(0.5, 0.5)), rescorer=FastV())


def test_a_file_from_before_there_was_a_choice_keeps_separators():
    data = {name: value for name, value in VALID.items() if name != "separators"}
    assert Strategy.parse(json.dumps(data)) == Strategy.model_validate({**VALID, "separators": "keep"})
    assert Strategy.preset("llava-onevision-7b/25").separators == "keep"
    assert Strategy.model_validate(data).separators == SEPARATORS


def test_recycler_and_provenance_are_optional():
    data = {key: value for key, value in VALID.items() if key not in ("provenance", "recycler", "format")}
    strategy = Strategy.model_validate(data)
    assert strategy.recycler is strategy.provenance is None
    assert strategy == Strategy.model_validate({**data, "recycler": None})
    written = json.loads(strategy.to_json())
    assert written == {**data, "format": VALID["format"], "recycler": None}
    assert len(components_of(strategy)) == 2


@pytest.mark.parametrize(
    "path",
    [(), ("scorer",), ("schedule",), ("recycler",), ("provenance",)],
    ids=lambda path: ".".join(path) or "strategy",
)
def test_unknown_keys_are_refused_by_name(path):
    data = json.loads(json.dumps(VALID))
    target = data
    for key in path:
        target = target[key]
    target["tresholds"] = 3
    with pytest.raises(StrategyError, match=r"no field '" + r"\.".join((*path, "tresholds")) + "'"):
        Strategy.parse(json.dumps(data))


@pytest.mark.parametrize("field", ["format", "scorer", "schedule", "recycler", "provenance"])
def test_strategies_are_frozen(field):
    strategy = Strategy.model_validate(VALID)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(strategy, field, None)
    part = getattr(strategy, field)
    if field != "format":
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, next(iter(type(part).model_fields)), 1)


def test_saving_replaces_another_strategy_and_nothing_else(tmp_path):
    path, strategy = tmp_path / "strategy.json", Strategy.model_validate(VALID)
    path.write_text("precious")
    with pytest.raises(OutputError, match=r"strategy\.json' exists and is not a strategy"):
        strategy.save(path)
    assert path.read_text() == "precious"
    assert Strategy.load(strategy.save(path, force=True)) == strategy
    other = strategy.with_provenance(None)
    assert Strategy.load(other.save(path)) == other


def test_with_provenance_changes_nothing_else():
    strategy = Strategy.model_validate(VALID)
    other = strategy.with_provenance(Provenance(seed=7))
    assert other.provenance == Provenance(seed=7)
    assert other.with_provenance(strategy.provenance) == strategy


# The method's own composition.


@given(drawn=schedules())
def test_a_strategy_has_the_average_retention_of_its_schedule(drawn):
    stages, ratios, num_layers = drawn
    strategy = Strategy.vflowopt(num_layers=num_layers, stages=stages, retention=ratios)
    assert strategy.average_retention(num_layers) == pytest.approx(average_retention(stages, ratios, num_layers))


def test_vflowopt_takes_the_stages_of_the_paper_by_default():
    strategy = Strategy.vflowopt(num_layers=28, retention=(0.5, 0.5, 0.5), threshold=3, entropy_weight=0.1, cell=2.5)
    assert strategy.schedule.boundaries == (0, 9, 18)
    assert strategy.scorer == CalibratedAttention(threshold=3, entropy_weight=0.1)
    assert strategy.recycler == GridRecycler(cell=2.5)
    with pytest.raises(StrategyError, match="stages must be one or more"):
        Strategy.vflowopt(num_layers=28, retention=(), stages=())


# Presets.

PUBLISHED = {
    "llava-onevision-7b/50": (28.683, 11.757, (0.7233, 0.7487, 0.487)),
    "llava-onevision-7b/25": (34.760, 15.581, (0.2651, 0.9833, 0.8773)),
    "llava-onevision-7b/10": (39.265, 17.387, (0.1166, 1.0, 0.6011)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_the_published_strategies(name):
    threshold, cell, retention = PUBLISHED[name]
    strategy = Strategy.preset(name)
    assert strategy.scorer == CalibratedAttention(threshold=threshold, entropy_weight=0.0)
    assert strategy.schedule == Progressive(stages=(0, 9, 18), retention=retention)
    assert strategy.recycler == GridRecycler(cell=cell)
    assert "2508.05211" in strategy.provenance.source
    assert strategy.provenance.num_layers == 28
    assert strategy.provenance.budget == int(name.split("/")[1]) / 100
    assert strategy.average_retention(28) == pytest.approx(strategy.provenance.budget, abs=0.001)


@pytest.mark.parametrize("name", ["llava-onevision-7b/33", "25", "", "../strategy", "llava-onevision-7b/25.json"])
def test_an_unknown_preset_names_those_that_exist(name):
    with pytest.raises(StrategyError) as caught:
        Strategy.preset(name)
    assert repr(name) in str(caught.value)
    assert all(known in str(caught.value) for known in PUBLISHED)
    assert sorted(PUBLISHED) == preset_names()


# What is no strategy.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "vflowopt/strategy/2"}, "its format is 'vflowopt/strategy/2', expected 'vflowopt/strategy/1'"),
        ({"format": None}, "its format is None"),
        ({"scorer": {"name": "other", "layer": 2}}, "no scorer is called 'other'; installed: .*calibrated-attention"),
        ({"scorer": {"threshold": 1.0}}, "no scorer is called None"),
        ({"scorer": {"name": ["grid"]}}, r"no scorer is called \['grid'\]"),
        ({"scorer": {"name": "grid", "cell": 2.0}}, "no scorer is called 'grid'"),
        ({"schedule": {"name": "cosine"}}, "no schedule is called 'cosine'; installed: .*progressive"),
        ({"recycler": {"name": "tome"}}, "no recycler is called 'tome'; installed: .*grid"),
        ({"scorer": "calibrated-attention"}, "scorer: "),
        ({"scorer": None}, "scorer: "),
        ({"schedule": None}, "schedule: "),
        ({"recycler": []}, "recycler: "),
        ({"rescorer": {"name": "divprune"}}, "no rescorer is called 'divprune'; installed: dart, fastv"),
        ({"rescorer": {"name": "other"}}, "no rescorer is called 'other'"),
        (
            {"scorer": {"name": "calibrated-attention", "threshold": -1}},
            "scorer.threshold: .*greater than or equal to 0",
        ),
        ({"scorer": {"name": "calibrated-attention", "threshold": "high"}}, "scorer.threshold: .*number"),
        ({"scorer": {"name": "calibrated-attention", "threshold": math.nan}}, "scorer.threshold: .*finite"),
        ({"recycler": {"name": "grid"}}, "recycler.cell is missing"),
        ({"recycler": {"name": "grid", "cell": 0.5}}, "recycler.cell: .*greater than or equal to 1"),
        ({"recycler": {"name": "grid", "cell": 10**400}}, "recycler.cell: "),
        (
            {"schedule": {"name": "progressive", "stages": [9, 0], "retention": [1, 1]}},
            r"schedule.stages: .*increasing, got \(9, 0\)",
        ),
        (
            {"schedule": {"name": "progressive", "stages": [0], "retention": [1.5]}},
            r"schedule.retention: .*\(0, 1\].*1.5",
        ),
        (
            {"schedule": {"name": "progressive", "stages": [0, 9], "retention": [1]}},
            "schedule: 2 stages need as many retention ratios, got 1",
        ),
        ({"provenance": {"score": math.inf}}, "provenance.score: .*finite"),
        ({"provenance": {"versions": {"torch": 2}}}, "provenance.versions.torch: .*string"),
    ],
)
def test_a_wrong_field_is_named_with_its_cause(change, message, tmp_path):
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps({**VALID, **change}))
    with pytest.raises(StrategyError, match=message) as caught:
        Strategy.load(path)
    assert str(caught.value).startswith(f"the file {str(path)!r} is not a vflowopt/strategy/1 strategy: ")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, VFlowOptError)


def test_every_wrong_field_is_named_at_once():
    data = {**VALID, "recycler": {"name": "grid", "cell": 0}, "provenance": {"seed": "x"}, "surplus": 1}
    with pytest.raises(
        StrategyError,
        match=r"recycler\.cell: .*; provenance\.seed: .*, got 'x'; there is no field 'surplus'; there are: .*schedule",
    ):
        Strategy.parse(json.dumps(data))


def test_a_missing_scorer_is_named():
    with pytest.raises(StrategyError, match="scorer is missing"):
        Strategy.parse(json.dumps({"format": VALID["format"], "schedule": VALID["schedule"]}))


def test_a_file_without_a_format_is_refused():
    data = {name: value for name, value in VALID.items() if name != "format"}
    with pytest.raises(StrategyError, match='does not say "format": "vflowopt/strategy/1"'):
        Strategy.parse(json.dumps(data))


FOREIGN = {
    "empty": b"",
    "truncated": json.dumps(VALID)[:100].encode(),
    "not UTF-8": b"\xff\xfe\x00",
    "UTF-8 with a mark": b"\xef\xbb\xbf" + json.dumps(VALID).encode(),
    "a list": b"[1, 2]",
    "a number": b"3",
    "null": b"null",
    "a text": b'"vflowopt/strategy/1"',
    "a config.json": b'{"model_type": "llava_onevision", "architectures": ["X"]}',
    "deeply nested": b"[" * 100_000,
    "an endless integer": b'{"format": ' + b"1" * 5000 + b"}",
    "a PNG": b"\x89PNG\r\n\x1a\n\x00",
    "a NUL": b"\x00",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_foreign_and_corrupt_files_are_refused_by_path(content, tmp_path):
    path = tmp_path / "foreign.json"
    path.write_bytes(content)
    with pytest.raises(StrategyError, match=r"foreign\.json"):
        Strategy.load(path)


def test_unreadable_files_are_refused_by_path(tmp_path):
    with pytest.raises(StrategyError, match=r"cannot read the strategy file .*missing\.json.*No such file"):
        Strategy.load(tmp_path / "missing.json")
    with pytest.raises(StrategyError, match=r"cannot read the strategy file .*irectory"):
        Strategy.load(tmp_path)
    with pytest.raises(StrategyError, match=r"cannot read the strategy file .*null"):
        Strategy.load("strategy\0.json")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 0.5, -1.0, 1e308, 10**400, math.nan, math.inf, "grid", "progressive", "\ud800", ""])
    | st.floats()
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.just("name"), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def mutations(draw):
    """A valid file with some places replaced, removed, renamed, duplicated or added."""
    data = json.loads(json.dumps(VALID))
    for _ in range(draw(st.integers(1, 3))):
        places = [(data, key) for key in data]
        for node, key in places:  # grows while it is walked
            child = node[key]
            places += (
                [(child, k) for k in (child if isinstance(child, dict) else range(len(child)))]
                if isinstance(child, dict | list)
                else []
            )
        node, key = draw(st.sampled_from(places)) if places else (data, "format")
        kind = draw(st.sampled_from(["replace", "remove", "rename", "add", "swap"]))
        if kind == "remove" or (kind == "rename" and isinstance(node, list)):
            node.pop(key, None) if isinstance(node, dict) else node.pop(key)
        elif kind == "rename":
            node[draw(st.text(max_size=4))] = node.pop(key, None)
        elif kind == "add" and isinstance(node, dict):
            node[draw(st.text(max_size=4))] = draw(json_values)
        elif kind == "swap" and places:
            other, other_key = draw(st.sampled_from(places))
            node[key] = json.loads(json.dumps(other[other_key]))
        else:
            node[key] = draw(json_values)
    return data


def loads_or_is_refused(text):
    """Either a strategy that survives its own file, or the typed error in one line that can be printed."""
    try:
        strategy = Strategy.parse(text)
    except StrategyError as error:
        message = str(error)
    else:
        assert Strategy.parse(strategy.to_json()) == strategy
        return
    assert message.startswith("the text is not a vflowopt/strategy/1 strategy: ")
    assert len(message.encode().splitlines()) == 1


@settings(max_examples=300)
@given(data=mutations())
def test_a_mutated_file_loads_to_an_equal_strategy_or_is_refused(data):
    loads_or_is_refused(json.dumps(data))


@given(data=json_values)
def test_any_json_loads_to_an_equal_strategy_or_is_refused(data):
    loads_or_is_refused(json.dumps(data))


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32), edits=st.integers(1, 4))
def test_a_file_with_flipped_bytes_loads_to_an_equal_strategy_or_is_refused(seed, edits, tmp_path_factory):
    rng = random.Random(seed)
    content = bytearray(json.dumps(VALID).encode())
    for _ in range(edits):
        place = rng.randrange(len(content))
        content[place : place + rng.randrange(3)] = rng.choice(
            [b"", bytes([rng.randrange(256)]), b"9", b'"', b"e9", b"-"]
        )
    path = tmp_path_factory.getbasetemp() / "flipped.json"
    path.write_bytes(content)
    try:
        strategy = Strategy.load(path)
    except StrategyError:
        return
    assert Strategy.parse(strategy.to_json()) == strategy


@given(content=st.binary(max_size=60))
@example(content=b"\xed\xa0\x80")
def test_arbitrary_bytes_are_refused(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(content)
    with pytest.raises(StrategyError, match="bytes"):
        Strategy.load(path)
