"""Finished cells survive anything, and are not mixed with others."""

import json

import pytest

from vflowopt.compare import Cell, Result, Store
from vflowopt.errors import JournalError

SETTINGS = {"limit": 3, "versions": {"a": "1"}, "data": None}
MODELS = {"m": "weights"}
RESULT = Result(
    Cell("m", "random", 0.25, 1),
    budget=0.25,
    right=(True, False, True),
    similarity=0.1 + 0.2,
    retention=1 / 3,
    deviation=0.4,
    tokens=(10.0, 10 / 3),
    kv_cache_bytes=5.0,
    flops=7.0,
    latency={"LM prefill": (0.1, 0.3)},
    strategy={"scorer": {"name": "random", "seed": 1}},
)
REFUSED = Result(Cell("m", "fastv", 0.1, None), cannot="too small", budget=0.1)


@pytest.fixture
def file(tmp_path):
    with Store.open(tmp_path / "cells.jsonl", SETTINGS, MODELS) as store:
        store.add(RESULT)
        store.add(REFUSED)
    return store.path


def reopened(file, settings=SETTINGS, models=MODELS, *further):
    with Store.open(file, settings, models) as store:
        for result in further:
            store.add(result)
    return store


def test_results_come_back_exactly(file):
    content = file.read_bytes()
    store = reopened(file)
    assert store.results == {RESULT.cell: RESULT, REFUSED.cell: REFUSED}
    assert store.notes == []
    assert file.read_bytes() == content


def test_a_line_cut_at_any_byte_costs_that_cell_only(file):
    content = file.read_bytes()
    last = content[:-1].rfind(b"\n") + 1
    for end in range(last + 1, len(content)):
        file.write_bytes(content[:end])
        store = reopened(file)
        assert list(store.results) == [RESULT.cell]
        assert len(store.notes) == 1
        assert file.read_bytes() == content[:last]
        reopened(file, SETTINGS, MODELS, REFUSED)
        assert file.read_bytes() == content


def test_a_first_line_cut_at_any_byte_is_begun_again(file, tmp_path):
    content = file.read_bytes()
    other = tmp_path / "other.jsonl"
    for end in (0, 1, 20, content.find(b"\n")):
        other.write_bytes(content[:end])
        assert reopened(other).results == {}
        assert content.startswith(other.read_bytes())


@pytest.mark.parametrize(
    ("settings", "models", "expected"),
    [
        ({**SETTINGS, "limit": 4}, MODELS, "limit is 3, now it is 4"),
        ({**SETTINGS, "data": "abc"}, MODELS, "data"),
        ({**SETTINGS, "versions": {"a": "2"}}, MODELS, "versions"),
        (SETTINGS, {"m": "other weights"}, "other weights"),
    ],
)
def test_other_settings_and_weights_are_refused(file, settings, models, expected):
    content = file.read_bytes()
    with pytest.raises(JournalError, match=expected):
        reopened(file, settings, models)
    assert file.read_bytes() == content


def test_models_may_be_added_and_left_out(file):
    reopened(file, models={"n": "others"})
    assert set(reopened(file).models) == {"m", "n"}
    with pytest.raises(JournalError, match="'n'"):
        reopened(file, models={"n": "changed"})


@pytest.mark.parametrize(
    "content", [b"no comparison\n", b"no comparison", b'{"format": "vflowopt/journal/1"}\n', b"[]\n"]
)
def test_other_files_are_left_alone(tmp_path, content):
    path = tmp_path / "cells.jsonl"
    path.write_bytes(content)
    with pytest.raises(JournalError, match="left alone"):
        reopened(path)
    assert path.read_bytes() == content


def test_damage_before_the_last_line_is_named(file):
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], lines[2][:30] + b"\n", lines[3]]))
    with pytest.raises(JournalError, match="line 3"):
        reopened(file)


def test_a_line_is_one_json_object(file):
    assert [next(iter(json.loads(line))) for line in file.read_text().splitlines()] == [
        "format", "model", "result", "result",
    ]  # fmt: skip


def test_one_process_at_a_time(file):
    with Store.open(file, SETTINGS, MODELS), pytest.raises(JournalError, match="in use by another process"):
        reopened(file)
    assert len(reopened(file).results) == 2


def test_an_edited_result_is_refused(file):
    file.write_bytes(file.read_bytes().replace(b'"budget": 0.25', b'"budget": 0.5', 1))
    with pytest.raises(JournalError, match=r"line 3 .* checksum does not fit"):
        reopened(file)
