"""What the host does beside recordings: counts that must not grow, on narrow models as deep as published ones."""

import pytest

from vflowopt import Strategy
from vflowopt.cli.bench_subjects import shapes
from vflowopt_hf.measure.host_cost import main
from vflowopt_hf.measure.replay_cost import HEADER, SPANS, replay_cost

PUBLISHED = Strategy.preset("llava-onevision-7b/10")


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("llava-onevision-narrow", ((5, 650), (50, 2_700), (165, 3_450))),
        ("qwen2-vl-narrow", ((5, 650), (50, 2_700), (165, 3_450))),
    ],
)
def test_beyond_an_unpruned_prefill(name, most):
    """Operators and calls; the device waits for those of the first span, and works meanwhile in the others."""
    adapter, shape = shapes()[name]
    model = shape.build("cpu", "auto")
    unpruned, replayed = replay_cost(adapter.family, model, shape.inputs(model, 300, 20), PUBLISHED)
    for full, own, (operators, calls) in zip(unpruned, replayed, most, strict=True):
        assert 0 < full.operators <= own.operators <= full.operators + operators
        assert 0 < full.calls <= own.calls <= full.calls + calls


def test_the_table(capsys):
    asked = ["--graphs", "--shapes", "llava-next-narrow", "--strategies", "llava-onevision-7b/10", "--batches", "1"]
    main(asked)
    header, line, *found = capsys.readouterr().out.splitlines()
    assert header == f"| {' | '.join(HEADER)} |"
    assert set(line) == set("| -")
    assert [row.split(" | ")[3] for row in found] == list(SPANS)
