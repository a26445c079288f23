"""The report of a prefill."""

import pytest

from vflowopt import PruningReport
from vflowopt.report import UnitReport


def report(*units):
    return PruningReport(
        boundaries=(0, 2),
        num_layers=4,
        units=units,
        sequence_lengths=(20, 20, 10, 10),
        full_length=40,
        kv_cache_bytes=1500,
        kv_cache_bytes_unpruned=4000,
    )


def test_retention_is_weighted_by_the_tokens_of_each_unit():
    few = UnitReport(sample=0, tokens=10, structural=0, counts=(10, 10), retention=1.0, details={})
    many = UnitReport(sample=1, tokens=30, structural=2, counts=(15, 5), retention=0.2, details={})
    assert report(few, many).retention == pytest.approx((10 * 1.0 + 30 * 0.2) / 40)


def test_a_prefill_without_visual_tokens_is_retained_entirely():
    assert report().retention == 1.0


def test_the_text_names_counts_and_bytes():
    unit = UnitReport(sample=3, tokens=30, structural=2, counts=(15, 5), retention=0.25, details={})
    text = str(report(unit))
    assert "average retention 25.00 %" in text
    assert "1,500 of 4,000 bytes" in text
    assert "unit 0 (sample 3): 30 visual tokens -> 15 from layer 0, 5 from layer 2" in text


def test_all_units_on_one_line():
    unit = UnitReport(sample=3, tokens=30, structural=2, counts=(15, 5), retention=0.25, details={})
    assert repr(report(unit)) == ("PruningReport(average retention 25.00 %, KV cache 1,500 of 4,000 bytes, units: 1)")
