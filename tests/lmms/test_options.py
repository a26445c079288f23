"""Model arguments, generation options and what is counted; needs no lmms-eval."""

import pytest

from vflowopt import CalibratedAttention, GridRecycler, PruningReport, Strategy
from vflowopt.errors import BudgetError, InputError, StrategyError
from vflowopt.report import UnitReport
from vflowopt_lmms.options import Decoding, read_strategy_option
from vflowopt_lmms.tally import Tally


@pytest.mark.parametrize("text", [None, "unpruned"])
def test_without_a_strategy_nothing_is_pruned(text):
    assert read_strategy_option(text, {}) is None


def test_what_lmms_eval_split_at_commas_is_joined():
    strategy = read_strategy_option("calibrated-attention@0.1", {"threshold": 1.5, "cell": 3})(28)
    assert strategy.scorer == CalibratedAttention(threshold=1.5)
    assert strategy.recycler == GridRecycler(cell=3)
    assert strategy.average_retention(28) == 0.1


def test_presets_and_files(tmp_path):
    preset = Strategy.preset("llava-onevision-7b/25")
    assert read_strategy_option("preset:llava-onevision-7b/25", {})(28) == preset
    assert read_strategy_option(str(preset.save(tmp_path / "mine@0.25.json")), {})(28) == preset


@pytest.mark.parametrize("text", [None, "unpruned", "preset:llava-onevision-7b/25", "mine.json"])
def test_an_unknown_argument_is_named(text):
    with pytest.raises(InputError, match="no argument devcie"):
        read_strategy_option(text, {"devcie": "cpu"})


def test_an_unknown_option_of_a_scorer_is_named():
    with pytest.raises(StrategyError, match="devcie"):
        read_strategy_option("mean-attention@0.25", {"devcie": "cpu"})
    with pytest.raises(BudgetError):
        read_strategy_option("mean-attention@1.25", {})


def test_decoding():
    usual = {
        "max_new_tokens": 16,
        "temperature": 0,
        "top_p": 1.0,
        "num_beams": 1,
        "do_sample": False,
        "until": ["\n\n"],
    }
    assert Decoding.of(usual) == Decoding(16, ("\n\n",))
    assert Decoding.of({"until": "ASSISTANT:"}) == Decoding(1024, ("ASSISTANT:",))
    assert Decoding.of({"do_sample": True, "temperature": 0, "until": None}) == Decoding(1024, ())


@pytest.mark.parametrize("options", [{"do_sample": True, "temperature": 0.7}, {"num_beams": 3}])
def test_other_than_greedy_decoding_is_refused(options):
    with pytest.raises(InputError, match="--gen_kwargs"):
        Decoding.of(options)


def test_an_answer_ends_at_the_first_end():
    assert Decoding(9, ("\n\n", "USER:")).cut("red\n\nUSER: and now?") == "red"
    assert Decoding(9, ("USER:", "\n\n")).cut("red USER: so\n\nwell") == "red "
    assert Decoding(9, ()).cut("red\n\nblue") == "red\n\nblue"


def report(*units):
    made = tuple(UnitReport(0, tokens, 0, counts, retention, {}) for tokens, counts, retention in units)
    return PruningReport((0, 3), 6, made, (10,) * 6, 20, kv_cache_bytes=100, kv_cache_bytes_unpruned=400)


def test_means_are_per_question():
    tally = Tally([report((100, (50, 20), 0.35)), report((60, (30, 12), 0.35), (40, (20, 8), 0.35))], 2.0, 10)
    assert tally.speed == 5
    told = tally.pruning()
    assert told.pop("retention") == pytest.approx(0.35)
    assert told == {
        "visual_tokens": 100,
        "visual_tokens_from_layer_0": 50,
        "visual_tokens_from_layer_3": 20,
        "kv_cache_bytes": 100,
        "kv_cache_bytes_unpruned": 400,
    }


def test_nothing_is_told_of_pruning_where_nothing_was_pruned():
    assert (Tally().pruning(), Tally().speed) == ({}, 0.0)
