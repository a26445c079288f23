"""Models inside PEFT's adapters, data parallelism and ``torch.compile`` are pruned like the bare model."""

import json

import pytest
import torch

from support import checkpoint, tiny
from support.tiny import IMAGE, LAYERS, VIDEO, image_inputs, tiny_onevision
from vflowopt import Strategy, prune
from vflowopt.cli.models import choose
from vflowopt.errors import InputError, UnsupportedOperationError
from vflowopt.plugins import find_adapter
from vflowopt_hf.adapters import llava_onevision

STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5), entropy_weight=0.5, cell=2.0)
GREEDY = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [IMAGE, VIDEO]}


def lora(model, seed=0, **options):
    """The model in an adapter that changes vision tower and decoder, and is not merged."""
    peft = pytest.importorskip("peft")
    names = ["q_proj", "k_proj", "v_proj", "gate_proj", "fc1"]
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=names, **options))
    torch.manual_seed(seed)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    return wrapped.eval()


@pytest.fixture
def inputs():
    return image_inputs(tiny_onevision(), [[(80, 60)]])


def hooks(model):
    return [(len(m._forward_pre_hooks), len(m._forward_hooks), sorted(vars(m))) for m in model.modules()]


def test_an_adapter_that_was_just_made_changes_nothing(inputs):
    peft = pytest.importorskip("peft")
    bare, wrapped = tiny_onevision(), peft.get_peft_model(tiny_onevision(), peft.LoraConfig(target_modules=["q_proj"]))
    wrapped.generate(**inputs, **GREEDY)  # upstream notes some things on itself at first use
    before = hooks(wrapped)
    with prune(bare, STRATEGY), prune(wrapped, STRATEGY), torch.no_grad():
        assert torch.equal(wrapped.generate(**inputs, **GREEDY), bare.generate(**inputs, **GREEDY))
        assert torch.equal(wrapped(**inputs).logits, bare(**inputs).logits)
    assert hooks(wrapped) == before


def test_an_adapter_beside_the_weights_is_pruned_like_one_that_is_merged(inputs):
    wrapped, merged = lora(tiny_onevision()).double(), lora(tiny_onevision()).double().merge_and_unload()
    inputs = {**inputs, "pixel_values": inputs["pixel_values"].double()}
    assert (merged(**inputs).logits - tiny_onevision().double()(**inputs).logits).abs().max() > 0.01
    with torch.no_grad(), prune(wrapped, STRATEGY) as one, prune(merged, STRATEGY) as two:
        found, wanted = wrapped(**inputs).logits, merged(**inputs).logits
        assert [plan.counts for plan in one.plan] == [plan.counts for plan in two.plan]
        assert one.plan[0].importance == pytest.approx(two.plan[0].importance, rel=1e-5)
    assert found == pytest.approx(wanted, abs=1e-6)


def test_everything_that_takes_a_model_takes_it_wrapped(inputs):
    wrapped, bare = lora(tiny_onevision()), lora(tiny_onevision()).get_base_model()
    adapter = find_adapter(wrapped)
    assert adapter is llava_onevision
    assert adapter.num_layers(wrapped) == LAYERS
    scores = [adapter.evaluator(model, [inputs]).evaluate(STRATEGY).score for model in (wrapped, bare)]
    assert scores[0] == scores[1]
    assert adapter.setting(wrapped) == adapter.setting(bare)
    flows = [adapter.flow(model, [inputs], {"s": STRATEGY}).describe() for model in (wrapped, bare)]
    assert flows[0] == flows[1]
    assert adapter.received_attention(wrapped, [inputs])
    rows = adapter.benchmark(wrapped, inputs, {"s": STRATEGY}, parts=("LM prefill",), rounds=1).rows
    assert [row.name for row in rows] == ["unpruned", "s"]


def test_learned_tokens_before_the_prompt_are_refused():
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=2, num_layers=LAYERS, token_dim=48, num_attention_heads=4
    )
    with pytest.raises(UnsupportedOperationError, match="PROMPT_TUNING puts learned tokens before the prompt"):
        prune(peft.get_peft_model(tiny_onevision(), config), STRATEGY)


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.fixture
def alone():
    """A group of one process."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel, compiled])
def test_other_wrappers(wrap, inputs, alone):
    bare, wrapped = tiny_onevision(), wrap(tiny_onevision())
    with torch.no_grad(), prune(bare, STRATEGY), prune(wrapped, STRATEGY) as pruning:
        assert torch.equal(wrapped(**inputs).logits, bare(**inputs).logits)
        assert pruning.report.sequence_lengths[-1] < pruning.report.full_length


@pytest.mark.repeat
def test_a_compiled_adapter(inputs, monkeypatch):
    """The wrapper outside is compiled, and was run before the block: its prefills are eager in the block, as ever."""
    monkeypatch.setattr(tiny, "LAYERS", 2)  # compiling takes long for each
    strategy = Strategy.vflowopt(num_layers=2, retention=(0.4, 0.6), stages=(0, 1))
    bare, wrapped = lora(tiny_onevision()), torch.compile(lora(tiny_onevision()), backend="eager")
    with torch.no_grad():
        full = wrapped(**inputs).logits
        with prune(bare, strategy), prune(wrapped, strategy):
            assert torch.equal(wrapped(**inputs).logits, bare(**inputs).logits)
        assert torch.equal(wrapped(**inputs).logits, full)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A base checkpoint and an adapter of it, as training leaves them."""
    base = checkpoint.save(tmp_path_factory.mktemp("base"))
    model = llava_onevision.load(base).model
    directory = tmp_path_factory.mktemp("adapter")
    lora(model).save_pretrained(directory)
    return base, directory


def test_a_directory_of_an_adapter_is_a_model(saved, inputs):
    base, directory = saved
    chosen = choose(str(directory))
    assert (chosen.model_type, chosen.source, chosen.label) == ("llava_onevision", str(base), str(directory))
    found, wanted = chosen.load(dtype="float64").model, lora(tiny_onevision()).double().merge_and_unload()
    inputs = {**inputs, "pixel_values": inputs["pixel_values"].double()}
    with torch.no_grad():
        assert found(**inputs).logits == pytest.approx(wanted(**inputs).logits, abs=1e-6)
        assert (found(**inputs).logits - tiny_onevision().double()(**inputs).logits).abs().max() > 0.01


def test_adapters_that_cannot_be_used(saved, tmp_path):
    _, directory = saved
    config = json.loads((directory / "adapter_config.json").read_text())

    def refused(message, **changes):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(InputError, match=message):
            choose(str(tmp_path)).load()

    refused("cannot read base_model_name_or_path from adapter_config.json", base_model_name_or_path=None)
    refused("is a PEFT adapter of .*, which is an adapter itself; merge", base_model_name_or_path=str(directory))
    refused("there is no directory 'no-such/base'", base_model_name_or_path="no-such/base")
    refused("cannot load the PEFT adapter .*: .*; check its adapter_config.json")  # without weights
    (tmp_path / "adapter_model.safetensors").write_bytes((directory / "adapter_model.safetensors").read_bytes())
    refused("are not those of the model that it names: .* fit nowhere", target_modules=["q_proj"])
    refused("are not those of the model that it names: .* are missing", target_modules=["q_proj", "o_proj"])
    assert choose(str(directory)).load().model is not None
