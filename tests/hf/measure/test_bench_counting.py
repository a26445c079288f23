"""What a run reads, leaves, computes and holds: counted on operations whose counts are known."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from support import tiny
from vflowopt.errors import InputError
from vflowopt_hf.adapters import llava_onevision
from vflowopt_hf.kernels import fusing
from vflowopt_hf.measure.bench.inputs import lengthened, repeated, text_length
from vflowopt_hf.measure.bench.memory import MemoryMeter
from vflowopt_hf.measure.bench.work import FORMULAS, counted

PLACEHOLDERS = {"image": tiny.IMAGE, "video": tiny.VIDEO}
FLOAT = 4


def test_a_product_reads_its_factors_and_leaves_its_result():
    x, w = torch.ones(5, 7), torch.ones(7, 3)
    run = counted(lambda: x @ w)
    assert run.flops == 2 * 5 * 7 * 3
    assert run.moved == FLOAT * (5 * 7 + 7 * 3 + 5 * 3)


def test_what_does_not_stay_is_not_moved():
    x, w = torch.ones(5, 7), torch.ones(7, 7)
    run = counted(lambda: ((x @ w) @ w @ w).sum())
    assert run.moved == FLOAT * (5 * 7 + 7 * 7 + 1)


def test_repetition_counts_once_and_parts_add_up():
    x = torch.ones(8, 4)
    assert counted(lambda: [x[:2] * 1, x[2:4] * 1, None][2]).moved == FLOAT * 4 * 4
    assert counted(lambda: [x * 1, x * 2, None][2]).moved == FLOAT * 8 * 4


def test_views_and_wide_views_of_little_read_nothing_more():
    x = torch.ones(4)
    assert counted(lambda: x.view(2, 2)[0]).moved == 0
    assert counted(lambda: x.expand(100, 4).sum()).moved == FLOAT * (4 + 1)


def test_looking_up_reads_what_it_finds():
    table, rows = torch.ones(1000, 4), torch.tensor([3, 5])
    assert counted(lambda: torch.nn.functional.embedding(rows, table)).moved == 2 * 8 + 2 * FLOAT * 2 * 4
    assert counted(lambda: table[rows]).moved == 2 * 8 + 2 * FLOAT * 2 * 4


def test_fused_attention_is_counted_on_the_cpu():
    query, key = torch.ones(1, 4, 10, 8), torch.ones(1, 4, 12, 8)
    run = counted(lambda: torch.nn.functional.scaled_dot_product_attention(query, key, key))
    assert run.flops == 2 * (2 * 4 * 10 * 12 * 8)


@pytest.mark.parametrize(
    "kind", ["flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu"]
)
@pytest.mark.parametrize("key_heads", [6, 2, 1])
def test_fused_attention_of_grouped_keys_is_counted_by_its_query_heads(kind, key_heads):
    """Every operator that scaled-dot-product attention may choose, on tensors without numbers."""
    query, key = torch.empty(2, 6, 10, 8, device="meta"), torch.empty(2, key_heads, 12, 8, device="meta")
    value = torch.empty(2, key_heads, 12, 16, device="meta")
    operator = getattr(torch.ops.aten, f"_scaled_dot_product_{kind}")
    more = {"efficient_attention": (None, False), "cudnn_attention": (None, False)}.get(kind, ())
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        operator(query, key, value, *more)
    assert counter.get_total_flops() == 2 * (2 * 6 * 10 * 12) * (8 + 16)


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_attention_of_grouped_keys_is_counted_whichever_kernel_runs(backend):
    query, key = torch.ones(1, 4, 10, 8), torch.ones(1, 2, 12, 8)
    with sdpa_kernel(backend):
        run = counted(lambda: torch.nn.functional.scaled_dot_product_attention(query, key, key, enable_gqa=True))
    assert run.flops == 2 * (2 * 4 * 10 * 12 * 8)


def test_importance_is_counted_by_operators_that_a_counter_sees(monkeypatch):
    """The fused kernels are no operators of torch: with them it would count nothing, and call that a limit."""
    monkeypatch.setattr(fusing, "_sums", lambda *_: "fused")
    states, chosen = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16, shape=(1, 1, 16, 64), device="cuda"), []
    counted(lambda: chosen.append(fusing.fused_kernels(states)))
    assert [*chosen, fusing.fused_kernels(states)] == [None, "fused"]


def test_layers_are_told_from_the_rest():
    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(6, 6, bias=False) for _ in range(3))
            self.head = torch.nn.Linear(6, 100, bias=False)

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.head(x)

    decoder = Decoder()
    with torch.no_grad():
        run = counted(lambda: decoder(torch.ones(2, 6)))
    assert run.layer_flops == 3 * 2 * 2 * 6 * 6
    assert run.flops == run.layer_flops + 2 * 2 * 6 * 100


@pytest.mark.skipif(not MemoryMeter(torch.device("cpu")).source, reason="the resident set cannot be measured here")
def test_peak_memory_is_what_a_run_holds_at_most():
    meter, mebibytes = MemoryMeter(torch.device("cpu")), 1 << 20

    def run():
        first = torch.ones(64 * mebibytes, dtype=torch.uint8)
        second = first + 1
        del first, second
        return torch.ones(16 * mebibytes, dtype=torch.uint8)

    for _ in range(2):  # what the first run freed does not hide what the second needs
        memory = meter.measure(run)
        assert 120 * mebibytes < memory.added < 160 * mebibytes
    assert meter.measure(lambda: None).added < 8 * mebibytes


def test_memory_of_other_devices_is_not_measured():
    ran = []
    meter = MemoryMeter(torch.device("meta"))
    assert (meter.source, meter.measure(lambda: ran.append(1))) == ("", None)
    assert ran == [1]


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_onevision()


def test_a_longer_prompt_repeats_its_last_token(model):
    inputs = tiny.image_inputs(model, [[(60, 84)]])
    own = text_length(inputs, PLACEHOLDERS)
    longer = lengthened(inputs, PLACEHOLDERS, own + 5)
    assert text_length(longer, PLACEHOLDERS) == own + 5
    assert longer["input_ids"][0, -6:].tolist() == [int(inputs["input_ids"][0, -1])] * 6
    assert longer["attention_mask"].shape == longer["input_ids"].shape
    assert longer["pixel_values"] is inputs["pixel_values"]
    with pytest.raises(InputError, match=f"{own} text tokens already"):
        lengthened(inputs, PLACEHOLDERS, own - 1)
    with pytest.raises(InputError, match="ends in a visual token"):
        lengthened({"input_ids": torch.tensor([[5, tiny.IMAGE]])}, PLACEHOLDERS, 4)


def test_a_batch_of_copies_is_answered_like_one(model):
    inputs = tiny.image_inputs(model, [[(60, 84)]])
    with torch.no_grad():
        one, three = model(**inputs).logits, model(**repeated(inputs, 3)).logits
    assert three.shape[0] == 3
    assert torch.allclose(three, one.expand(3, -1, -1), atol=1e-4)


def test_a_sweep_measures_the_sizes_it_was_asked_for(model):
    inputs = tiny.image_inputs(model, [[(60, 84)]])
    bench = llava_onevision.benchmark(model, inputs, {}, parts=("LM prefill",), rounds=1, batch=2, text_tokens=50)
    assert (bench.batch, bench.text_tokens) == (2, 50)
    assert bench.unpruned.lengths[0] == bench.unpruned.tokens[0] + 50
