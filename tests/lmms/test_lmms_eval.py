"""The model inside the real lmms-eval, on the questions of the reference model."""

import json
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("lmms_eval")

from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager

from vflowopt import Strategy
from vflowopt.cli.data import read_jsonl
from vflowopt.cli.evaluate import compare, is_right
from vflowopt.cli.models import choose
from vflowopt.errors import InputError, UnsupportedOperationError
from vflowopt.strategies.reading import read_strategy
from vflowopt_hf.pruning.session import refuse_nesting
from vflowopt_lmms.model import VFlowOpt

pytestmark = [pytest.mark.lmms, pytest.mark.filterwarnings("ignore")]

EXAMPLE = Path(__file__).parents[2] / "packages" / "vflowopt-lmms" / "examples" / "reference_task"
COUNT = 12


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """The example task with few questions."""
    folder = tmp_path_factory.mktemp("task")
    for name in ("make_data.py", "utils.py", "reference_questions.yaml"):
        shutil.copy(EXAMPLE / name, folder)
    before, sys.argv = sys.argv, ["make_data.py", "--count", str(COUNT)]
    try:
        runpy.run_path(str(folder / "make_data.py"), run_name="__main__")
    finally:
        sys.argv = before
    return folder


def evaluate(task, monkeypatch, model="vflowopt", **arguments):
    monkeypatch.chdir(task)
    manager = TaskManager(include_path=str(task), include_defaults=False)
    return simple_evaluate(
        model=model,
        model_args=",".join(f"{name}={value}" for name, value in arguments.items()),
        tasks=["reference_questions"],
        task_manager=manager,
        batch_size=1,
        log_samples=True,
    )


def answers(results):
    samples = sorted(results["samples"]["reference_questions"], key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"][0] for sample in samples]


def test_lmms_eval_finds_the_model():
    assert get_model("vflowopt") is VFlowOpt


@pytest.mark.parametrize("name", ["mean-attention@0.25", "random@0.1,seed=3", "file"])
def test_accuracy_is_that_of_vflowopt_evaluate(task, monkeypatch, name):
    if name == "file":
        strategy = Strategy.vflowopt(num_layers=9, retention=(0.4, 0.6, 0.5), threshold=1.5, cell=3.0)
        name = str(strategy.save(task / "strategy.json"))
    results = evaluate(task, monkeypatch, pretrained="reference", strategy=name)
    questions = read_jsonl(task / "data" / "questions.jsonl")
    loaded = choose("reference").load("cpu")
    layers = loaded.adapter.num_layers(loaded.model)
    _, expected = compare(loaded, questions, {name: read_strategy(name)(layers)}, 16)
    assert results["results"]["reference_questions"]["accuracy,none"] == pytest.approx(expected.accuracy)
    right = [is_right(answer, question.answers) for answer, question in zip(answers(results), questions, strict=True)]
    assert sum(right) == expected.right
    told = results["throughput"]
    assert told["avg_retention"] == pytest.approx(expected.retention)
    full, *stages = expected.tokens
    assert told["avg_visual_tokens"] == pytest.approx(full)
    kept = [value for key, value in sorted(told.items()) if key.startswith("avg_visual_tokens_from_layer_")]
    assert kept == pytest.approx(stages)


def test_unpruned_is_upstream(task, monkeypatch):
    results = evaluate(task, monkeypatch, pretrained="reference")
    loaded = choose("reference").load("cpu")
    questions = read_jsonl(task / "data" / "questions.jsonl")
    assert answers(results) == [loaded.generate(question.prepare(loaded), 16) for question in questions]
    assert "avg_retention" not in results["throughput"]


def test_the_model_can_be_asked_again_and_is_left_unpruned(task, monkeypatch):
    model = VFlowOpt(pretrained="reference", strategy="mean-attention@0.25")
    first = answers(evaluate(task, monkeypatch, model))
    assert answers(evaluate(task, monkeypatch, model)) == first
    refuse_nesting(model._loaded.adapter.family, model._loaded.model)


def test_other_requests_are_refused():
    model = VFlowOpt(pretrained="reference")
    for method in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(UnsupportedOperationError, match="answers to single questions"):
            method([])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "pretrained="),
        ({"pretrained": "reference", "batch_size": 4}, "--batch_size is 4"),
        ({"pretrained": "reference", "devcie": "cpu"}, "devcie"),
        ({"pretrained": "nowhere/at/all"}, "nowhere/at/all"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(InputError, match=named):
        VFlowOpt(**arguments)


def test_one_process_only(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="one process"):
        VFlowOpt(pretrained="reference")


def test_videos(task, monkeypatch):
    """A still video against the same question asked directly."""
    line = json.loads((task / "data" / "questions.jsonl").read_text().splitlines()[0])
    with Image.open(task / "data" / line["image"]) as image:
        frame = np.asarray(image.convert("RGB").resize((112, 112)))
    np.save(task / "clip.npy", np.stack([frame] * 6))
    (task / "video.jsonl").write_text(json.dumps(line | {"image": [], "video": "clip.npy"}))
    seen = []
    monkeypatch.setattr("vflowopt_lmms.model.log_metrics", lambda *told: seen.append(told[-1]))
    model = VFlowOpt(pretrained="reference", strategy="mean-attention@0.25", frames=4)
    model.task_dict = {"videos": {"test": [line]}}
    content = [{"type": "video", "url": str(task / "clip.npy")}, {"type": "text", "text": line["question"]}]
    messages = [{"role": "user", "content": content}]
    (answer,) = model.generate_until([SimpleNamespace(args=("", lambda _: messages, {}, 0, "videos", "test"))])
    (question,) = read_jsonl(task / "video.jsonl", frames=4)
    _, expected = compare(model._loaded, [question], {"s": model._strategy}, 1024)
    assert is_right(answer.text, question.answers) == bool(expected.right)
    assert seen[0]["visual_tokens"] == expected.tokens[0]
    assert seen[0]["retention"] == expected.retention
