"""Engines of vLLM on the CPU: `make test-vllm`. What vLLM is told by its environment, and the models that it serves."""

import json
import os
from pathlib import Path

# Here, so that tests see the worker's model; one GiB of KV cache; no report of usage, which would need a network.
os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_NO_USAGE_STATS="1",
    VLLM_LOGGING_LEVEL="ERROR",
)
os.environ.setdefault("VLLM_CACHE_ROOT", str(Path(__file__).parents[3] / "build" / "vllm-cache"))

import pytest

from support.served_models import random_internvl, random_qwen2_5_vl, random_qwen3_vl
from support.serving import Question
from support.widening import widen
from vflowopt_reference import held_out, load_processor, path

RANDOM = {
    "random-internvl": random_internvl,
    "random-qwen2.5-vl": random_qwen2_5_vl,
    "random-qwen3-vl": random_qwen3_vl,
}


def as_vllm_has_it(checkpoint: Path) -> None:
    """Of how LLaVA-OneVision resizes what it has of large images, vLLM knows but one way, whatever is configured."""
    for name in ("config.json", "processor_config.json"):
        configured = json.loads((checkpoint / name).read_text(encoding="utf-8"))
        if "vision_aspect_ratio" in configured:
            configured["vision_aspect_ratio"] = "anyres_max_9"
            (checkpoint / name).write_text(json.dumps(configured), encoding="utf-8")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Directory of a model by its name, with decoder heads of a size that vLLM has on CPUs."""
    made: dict[str, Path] = {}

    def directory(name: str) -> Path:
        if name not in made:
            target = tmp_path_factory.mktemp("models") / name
            made[name] = RANDOM[name](target) if name in RANDOM else widen(path(name), target)
            as_vllm_has_it(made[name])
        return made[name]

    return directory


@pytest.fixture(scope="session")
def questions():
    """The first held-out questions of a reference model, and what is right."""

    def first(name: str, count: int) -> tuple[list[Question], list[str]]:
        processor, examples = load_processor(name), held_out(count, model=name)
        asked = [Question(processor.prompt(one.question), (one.image,)) for one in examples]
        return asked, [one.answer for one in examples]

    return first


FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def figures(request):
    """Lines that stand at the end of the report."""
    return request.config.stash.setdefault(FIGURES, [])


def pytest_terminal_summary(terminalreporter, config):
    lines = config.stash.get(FIGURES, [])
    if lines:
        terminalreporter.section("served by vLLM beside transformers")
        terminalreporter.write("".join(f"{line}\n" for line in lines))
