"""What an engine is asked for is checked before it starts; no engine is started here."""

import pytest

pytest.importorskip("vllm")

from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.models.interfaces import SupportsMultiModalPruning
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.processing import ProcessorInputs, TimingContext
from vllm.plugins import load_general_plugins

from support.serving import Question, strategy_at, usual
from vflowopt import CalibratedAttention, Progressive, Strategy
from vflowopt.components.mass import LogMass
from vflowopt.errors import InputError
from vflowopt_reference import load_processor
from vflowopt_vllm import engine_options, processing
from vflowopt_vllm.errors import ServingError
from vflowopt_vllm.models.llava_next import PrunedLlavaNext
from vflowopt_vllm.models.llava_onevision import PrunedLlavaOnevision
from vflowopt_vllm.pruned_model import sub_batches
from vflowopt_vllm.request import KEY, resolved

pytestmark = pytest.mark.vllm

NAME = "reference-qwen2vl"
STOCK, PRUNED = "Qwen2VLForConditionalGeneration", "VFlowOptQwen2VLForConditionalGeneration"
TEXT = "Qwen2ForCausalLM"
ATTENTION = CalibratedAttention(threshold=1.2)


@pytest.fixture(scope="module", autouse=True)
def _plugins():
    load_general_plugins()


def config_of(model, **options):
    return EngineArgs(**usual(model) | options).create_engine_config()


def test_what_is_right_is_taken(checkpoint):
    model, strategy = checkpoint(NAME), strategy_at(0.25)
    config = config_of(model, **engine_options(str(model), strategy))
    assert config.model_config.architecture == PRUNED
    assert getattr(config.model_config.hf_config, KEY) == resolved(strategy)


TWO = Strategy(scorer=ATTENTION, schedule=Progressive(stages=(0, 3), retention=(0.5, 0.5)))
MASS = Strategy(scorer=ATTENTION, schedule=Progressive.flat(0.25), mass=LogMass(gamma=1.0))


@pytest.mark.parametrize(
    ("architecture", "strategy", "options", "told"),
    [
        (PRUNED, "nothing.json", {}, "nothing.json"),
        (PRUNED, None, {}, f"{PRUNED} needs a strategy"),
        (PRUNED, resolved(TWO), {}, "prunes before decoder layers 0, 3.* --stages .*one_stage"),
        (PRUNED, resolved(MASS), {}, "has mass.*without_mass"),
        (PRUNED, "cdpruner@0.25", {}, "needs text.* another scorer"),
        (PRUNED, ["0.25"], {}, "is no request"),
        (STOCK, "0.25", {}, f'does not prune: add "architectures".*{PRUNED}'),
        (TEXT, "0.25", {}, f"{TEXT} does not prune: served with a strategy are .*{STOCK}"),
        (PRUNED, "0.25", {"enable_mm_embeds": True}, "--enable-mm-embeds.* leave the option out"),
        (PRUNED, "0.25", {"video_pruning_rate": 0.5}, "--video-pruning-rate .* leave it out"),
        (PRUNED, "0.25", {"language_model_only": True}, f"serves images; .* take {STOCK}"),
        (PRUNED, "0.25", {"compilation_config": {"compile_mm_encoder": True}}, "compile_mm_encoder .* leave it out"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(architecture, strategy, options, told, checkpoint):
    overrides = {"architectures": [architecture]} | ({} if strategy is None else {KEY: strategy})
    with pytest.raises(ServingError, match=told) as caught:
        config_of(checkpoint(NAME), hf_overrides=overrides, **options)
    assert len(str(caught.value).splitlines()) == 1


def test_another_vllm_is_refused_by_name(checkpoint, monkeypatch):
    monkeypatch.delattr(SupportsMultiModalPruning, "recompute_mrope_positions")
    with pytest.raises(ServingError, match=r"vLLM 0.* lacks .*recompute_mrope_positions.*install vLLM"):
        engine_options(str(checkpoint(NAME)), "0.25")


@pytest.fixture
def processed(checkpoint):
    """What vLLM's front end makes of a prompt."""

    def process(name, strategy, question):
        model = checkpoint(name)
        config = config_of(model, **({} if strategy is None else engine_options(str(model), strategy))).model_config
        processor = MULTIMODAL_REGISTRY.create_processor(config)
        items = processor.info.parse_mm_data({"image": list(question.images)})
        ids = load_processor(name).tokenizer(question.prompt)["input_ids"]
        return processor.apply(ProcessorInputs(ids, items), TimingContext(enabled=False))

    return process


@pytest.mark.parametrize("name", ["reference", NAME])
def test_strategies_never_share_what_is_stored(name, processed, questions):
    question = questions(name, 1)[0][0]
    strategies = [
        None,
        strategy_at(0.25),
        strategy_at(0.5),
        Strategy(scorer=ATTENTION, schedule=Progressive.flat(0.25)),
    ]
    made = [processed(name, strategy, question) for strategy in strategies]
    hashes = [one["mm_hashes"]["image"][0] for one in made]
    assert len(set(hashes)) == len(strategies)
    again = processed(name, strategy_at(0.25), question)
    assert again["mm_hashes"]["image"][0] == hashes[1]
    unpruned, *pruned = (one["mm_placeholders"]["image"][0].length for one in made)
    assert pruned == [strategy.schedule.counts(unpruned)[0] for strategy in strategies[1:]]


def test_a_placeholder_in_the_text_is_refused(processed, questions):
    question = questions(NAME, 1)[0][0]
    with pytest.raises(InputError, match="1 more image placeholders than images"):
        processed(NAME, strategy_at(0.25), Question(question.prompt + "<image>", question.images))


def test_places_and_positions_are_limited(processed, questions, monkeypatch):
    question = questions("reference", 1)[0][0]
    with pytest.raises(InputError, match=r"takes up \d{5,} positions, .* the model has 16384; send fewer or smaller"):
        processed("reference", strategy_at(0.25), Question(question.prompt + 17_000 * " what", question.images))
    monkeypatch.setattr(processing, "LIMIT", 100)
    with pytest.raises(InputError, match=r"image 0 takes up .* make it smaller"):
        processed("reference", strategy_at(0.25), question)


def test_sub_batches():
    assert list(sub_batches([5, 5, 5, 20, 1, 1], 10)) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 6)]
    assert list(sub_batches([30], 10)) == [slice(0, 1)]
    assert list(sub_batches([3, 3, 3], 9)) == [slice(0, 3)]


@pytest.mark.parametrize(("name", "served"), [("reference", PrunedLlavaOnevision), ("reference-next", PrunedLlavaNext)])
def test_an_image_out_of_the_prefix_cache_comes_without_pixels(name, served, checkpoint, processed, questions):
    """vLLM then hands over nothing but what stays on the host."""
    made = processed(name, None, questions(name, 1)[0][0])
    (item,) = made["mm_kwargs"]["image"]
    left = {key: field for key, field in item.items() if field.field.keep_on_cpu}
    assert set(left) == {"image_sizes"}
    bare = object.__new__(served)
    object.__setattr__(bare, "config", config_of(checkpoint(name)).model_config.hf_config)
    assert served.extent(bare, left) == made["mm_placeholders"]["image"][0].length
