"""Whole answers in every mode: the right tokens, once-only costs apart, and a model that is left as it was."""

import itertools
from contextlib import contextmanager

import pytest
import torch
from transformers import CompileConfig

from support import tiny
from support.generating import generate
from vflowopt import Strategy, prune
from vflowopt.benchmark import MODES, Kernels
from vflowopt.benchmark.timing import Moment, interleaved
from vflowopt.errors import InputError
from vflowopt_hf.adapters import llava_onevision
from vflowopt_hf.measure.bench import Bench
from vflowopt_hf.measure.bench.answers import Answers
from vflowopt_hf.measure.bench.layers import CompiledLayers
from vflowopt_hf.measure.bench.modes import EAGER, EVERYTHING, WAYS, Way, compiled_code, pruned
from vflowopt_hf.measure.bench.tasks import Candidate

LAYERS = 3
STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.6, 0.7, 0.5), threshold=1.0, cell=2.0)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "LAYERS", LAYERS)
        return tiny.tiny_onevision()


@pytest.fixture(scope="module")
def inputs(model):
    return tiny.image_inputs(model, [[(60, 84)]])


def candidates(model, inputs):
    bench = Bench(llava_onevision.family, model, inputs, llava_onevision.family.pixel_statistics)
    return [Candidate(bench._subject, name, one) for name, one in (("unpruned", None), ("mine", STRATEGY))]


def test_there_is_a_way_for_every_mode():
    assert tuple(WAYS) == MODES


def test_what_retains_everything_is_the_unpruned_model(model, inputs):
    with torch.no_grad():
        full = model(**inputs).logits
        with prune(model, EVERYTHING):
            assert torch.equal(model(**inputs).logits, full)


def test_answers_in_every_mode_are_those_of_generate(model, inputs):
    """Compiled once for each row and never again, though rows and lengths take turns."""
    config = CompileConfig(backend="eager")
    config._compile_all_devices = True
    static = Way("compiled", {"cache_implementation": "static", "compile_config": config}, around=compiled_code)
    by_layer = Way("layers", pruned=CompiledLayers("eager").pruned, prefills=True)
    before = [dict(vars(module)) for module in model.modules()]
    expected = {"unpruned": generate(model, inputs, 2).sequences}
    with prune(model, STRATEGY):
        expected["mine"] = generate(model, inputs, 2).sequences
    with static.around(model), torch.no_grad():
        answers = Answers(candidates(model, inputs), [EAGER, static, by_layer], (2,), CPU)
        ticks, told = itertools.count(), []
        answers.begin(lambda: told.append(1), lambda: Moment(float(next(ticks)), 0.0))
        assert "_compiled_call" in vars(model)
        runs, got = answers.runs, {}
        with torch.compiler.set_stance("fail_on_recompile"):
            for name, run in runs.items():
                got[name] = run()
        times = interleaved(dict.fromkeys(runs, lambda: None), rounds=2)
    assert [dict(vars(module)) for module in model.modules()] == before
    assert len(told) == answers.total == 6
    for name, tokens in itertools.product(expected, (1, 2)):
        prompt = inputs["input_ids"].shape[1]
        for mode in ("eager", "compiled", "layers"):
            assert torch.equal(got[f"{name}/{mode}/{tokens}"], expected[name][:, : prompt + tokens])
    for name in expected:
        eager, compiled, layers = answers.of(name, times, {})
        assert [one.mode for one in (eager, compiled, layers)] == ["eager", "compiled", "layers"]
        assert eager.first_calls == compiled.first_calls == 1.0  # the clock ticks once meanwhile
        assert set(eager.times) == set(compiled.times) == set(layers.times) == {1, 2}
        assert layers.prefill is not None
        assert eager.kernels is None  # on the CPU there are none


def test_a_mode_that_changes_prefills_has_them_timed_when_all_is_ready(model, inputs):
    """Whatever is made once is made before the clock starts, inside the block that is timed."""
    seen, blocks = [], []

    @contextmanager
    def block(*given):
        blocks.append(given[2])
        with pruned(*given):
            yield

    way = Way("eager", pruned=block, calls=2, prefills=True)
    counting = model.register_forward_pre_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        answers = Answers(candidates(model, inputs), [way], (2,), CPU)
        seen.clear()
        answers.begin(lambda: None)
        assert (len(seen), blocks) == (2 * 2 * 2, [None, STRATEGY])  # rows, calls, tokens
        runs, forwards = answers.runs, {}
        for name, run in runs.items():
            with run.within():
                ready = len(seen)
                run.task()
                forwards[name] = len(seen) - ready
    counting.remove()
    assert forwards == {f"{row}/eager/{tokens}": max(1, tokens) for row in ("unpruned", "mine") for tokens in (0, 1, 2)}
    assert len(blocks) == 2 + len(runs)
    assert len(seen) == 8 + sum(2 + each for each in forwards.values())
    times = interleaved(dict.fromkeys(runs, lambda: None), rounds=2)
    kernels = {name: Kernels(1, 1, float(number), 1.0) for number, name in enumerate(runs)}
    (mine,) = answers.of("mine", times, kernels)
    assert (mine.prefill, set(mine.times)) == (times["mine/eager/0"], {1, 2})
    assert (mine.prefill_kernels, mine.kernels) == (kernels["mine/eager/0"], kernels["mine/eager/1"])


def test_a_benchmark_has_answers_if_it_is_asked_for_them(model, inputs):
    seen = []
    bench = llava_onevision.benchmark(
        model, inputs, {"mine": STRATEGY}, parts=("planning",), rounds=2, batch=2, generate=(2,),
        on_task=lambda *step: seen.append(step),
    )  # fmt: skip
    for row in bench.rows:
        (generation,) = row.generation
        assert (generation.mode, set(generation.times)) == ("eager", {1, 2})
        assert generation.times[2].wall.rounds == 2
        assert row.kernels == {}
    assert seen[-1] == (len(seen), len(seen))
    assert all(row.generation == () for row in llava_onevision.benchmark(model, inputs, {}, parts=(), rounds=1).rows)


def test_a_model_that_stops_early_is_not_measured_as_if_it_had_not(model, inputs):
    with torch.no_grad(), pytest.raises(InputError, match="gave 1 tokens where 3 were asked for"):
        candidates(model, inputs)[0].answer(3, Way("eager", {"max_time": 0.0}))()


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"generate": (0,)}, "at least one token, not 0"),
        (
            {"generate": (2,), "modes": ("quick",)},
            "no mode 'quick'; modes are eager, compiled, layers, graphs, graphs-compiled",
        ),
        ({"generate": (2,), "modes": ("compiled",)}, "mode 'compiled' is for cuda or xpu, not for cpu"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_anything_runs(model, inputs, asked, named):
    ran = []
    with pytest.raises(InputError, match=named):
        llava_onevision.benchmark(model, inputs, {}, rounds=1, on_task=lambda *step: ran.append(step), **asked)
    assert ran == []
