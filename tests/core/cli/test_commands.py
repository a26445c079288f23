"""What needs no model: listing, specifications, questions from files, comparison of answers."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from vflowopt import CalibratedAttention, GridRecycler, Progressive, Strategy
from vflowopt.cli import app
from vflowopt.cli.data import read_directory, read_jsonl
from vflowopt.cli.evaluate import is_right, normalised
from vflowopt.cli.failures import INTERRUPTED
from vflowopt.components.baselines import RandomTokens
from vflowopt.components.mass import LogMass
from vflowopt.discovery.known_models import RESAMPLED, verdicts
from vflowopt.errors import BudgetError, StrategyError
from vflowopt.methods import DivPrune, FastV
from vflowopt.strategies.reading import read_strategy


def test_adapters_as_json():
    result = CliRunner().invoke(app, ["adapters", "--json"])
    listed = json.loads(result.stdout)
    assert set(listed) == {"adapters", "models", "components", "conflicts", "failures"}
    assert {"random", "uniform-grid", "low-resolution", "calibrated-attention"} <= set(listed["components"]["scorer"])
    for adapter in listed["adapters"]:
        assert {"name", "model_types", "distribution", "version", "place", "summary"} <= set(adapter)
        assert (adapter["usable"], adapter["problem"]) == (True, None)


def test_every_model_type_as_json_and_as_a_table():
    listed = json.loads(CliRunner().invoke(app, ["adapters", "--all", "--json"]).stdout)["known"]
    assert {entry["model_type"]: entry["status"] for entry in listed} == {
        kind: verdict.status for kind, verdict in verdicts().items()
    }
    told = {entry["model_type"]: (entry["nearest"], entry["told"]) for entry in listed}
    assert told["aria"] == ("idefics3", RESAMPLED)
    assert told["idefics2"] == ("", "vflowopt-hf")
    result = CliRunner().invoke(app, ["adapters", "--all"])
    assert result.exit_code == 0
    assert "Model types of transformers" in result.stdout
    assert "idefics2" in result.stdout


def test_adapters_as_a_table():
    result = CliRunner().invoke(app, ["adapters"])
    assert result.exit_code == 0
    assert "Components of strategies" in result.stdout


def test_help_of_every_command_needs_no_framework():
    commands = sorted(get_command(app).commands)
    assert {"demo", "optimize", "fit", "evaluate", "compare", "ablate", "run", "show", "flow", "bench"} < set(commands)
    script = (
        f"import sys\nfrom vflowopt.cli import app\nfor command in ('', *{commands}):\n"
        "    try:\n        app([*command.split(), '--help'])\n    except SystemExit as end:\n"
        "        assert not end.code, command\n"
        "    heavy = {'torch', 'transformers', 'emukit', 'scipy.optimize'} & set(sys.modules)\n"
        "    assert not heavy, (command, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage") == len(commands) + 1


def test_ctrl_c_is_one_line(monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("vflowopt.cli.run.choose", interrupt)
    result = CliRunner().invoke(app, ["run", "-m", "x", "-i", "x", "-p", "?", "-s", "random@0.5"])
    assert result.exit_code == INTERRUPTED
    assert result.stderr.strip() == "interrupted"


def test_specifications():
    random = read_strategy("random@0.25,seed=7")(28)
    assert random.scorer == RandomTokens(seed=7)
    assert random.average_retention(28) == 0.25
    assert random.recycler is None
    assert read_strategy("mean-attention@0.5")(28).scorer == CalibratedAttention()
    rich = read_strategy("calibrated-attention@0.1,threshold=1.5,entropy_weight=2,cell=3.5")(28)
    assert rich.scorer == CalibratedAttention(threshold=1.5, entropy_weight=2)
    assert rich.recycler == GridRecycler(cell=3.5)
    assert rich.mass is None
    assert read_strategy("divprune@0.1,mass=0.5")(28).mass == LogMass(gamma=0.5)
    assert read_strategy("fastv@0.25,mass=1")(28).mass == LogMass(gamma=1)
    assert read_strategy("preset:llava-onevision-7b/25")(28) == Strategy.preset("llava-onevision-7b/25")


def test_methods_that_prune_inside_the_decoder_bring_their_schedule():
    assert read_strategy("fastv@0.25")(28) == Strategy(scorer=FastV(), schedule=FastV().schedule(0.25, 28))
    assert read_strategy("fastv@0.25,stages=3")(28).schedule.boundaries == (3,)
    drop = read_strategy("pyramiddrop@0.4,stages=2/4/8")(32)
    assert drop.schedule.boundaries == (2, 4, 8)
    assert abs(drop.average_retention(32) - 0.4) < 1e-12
    assert read_strategy("fastv@1,cell=2")(28).recycler == GridRecycler(cell=2)


def test_a_method_may_be_ranked_anew_inside_the_decoder():
    anew = read_strategy("divprune@0.25,mass=1,rescorer=fastv")(28)
    assert anew == Strategy(
        scorer=DivPrune(),
        schedule=Progressive.geometric(0.25, (0, 9, 18), 28),
        mass=LogMass(gamma=1),
        rescorer=FastV(),
    )
    assert read_strategy("divprune@0.25,rescorer=pyramiddrop,stages=0/4")(28).schedule.boundaries == (0, 4)
    assert read_strategy("divprune@0.25,rescorer=none")(28) == read_strategy("divprune@0.25")(28)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("divprune@0.25,rescorer=scope", "no rescorer is called 'scope' in .*there are: dart, .*fastv"),
        ("fastv@0.25,rescorer=pyramiddrop", "fastv ranks inside the decoder by itself; leave rescorer= out"),
        ("fitprune@0.25,rescorer=fastv", "fitprune ranks inside the decoder by itself"),
        ("divprune@0.5,rescorer=fastv,stages=3", "all stages inside the decoder, and the first is before layer 3"),
        ("divprune@0.5,rescorer=fastv,stages=0", "ranks at stages inside the decoder, of which there is none"),
        ("divprune@0.5,rescorer=fastv,stages=4/0", r"strictly increasing, got \(4, 0\)"),
    ],
)
def test_what_cannot_rank_anew(text, said):
    with pytest.raises(StrategyError, match=said):
        read_strategy(text)(28)


@pytest.mark.parametrize(
    ("text", "layers", "error", "said"),
    [
        ("fastv@0.07", 28, BudgetError, "smallest feasible budget lies above 0.0714"),
        ("fastv@0.5,stages=9", 8, StrategyError, "stage 9 lies beyond the last decoder layer"),
        ("fastv@0.5,stages=4/2", 28, StrategyError, "strictly increasing"),
        ("fastv@0.5,stages=0", 28, StrategyError, "none before the LLM"),
    ],
)
def test_schedules_that_do_not_fit_the_decoder(text, layers, error, said):
    with pytest.raises(error, match=said):
        read_strategy(text)(layers)


@pytest.mark.parametrize(
    "text", ["fastv@0.5,stages=two", "fastv@0.5,seed=1", "random@0.5,stages=2", "random@0.5,mass=2"]
)
def test_options_that_a_method_does_not_have(text):
    with pytest.raises(StrategyError):
        read_strategy(text)


def test_a_file_may_have_an_at_sign_in_its_name(tmp_path):
    path = Strategy.preset("llava-onevision-7b/25").save(tmp_path / "mine@0.25.json")
    assert read_strategy(str(path))(28) == Strategy.preset("llava-onevision-7b/25")


def test_questions_from_a_file(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 6)).save(tmp_path / "images" / name)
    lines = [
        {"image": "images/a.png", "question": "one?", "answers": ["1", "one"]},
        {"image": ["images/a.png", "images/b.png"], "question": "two?", "answer": "2"},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    one, two = read_jsonl(tmp_path / "q.jsonl")
    assert one.answers == ("1", "one")
    assert two.answers == ("2",)
    assert [(image.mode, image.size) for image in two.images()] == [("RGB", (8, 6))] * 2
    assert [question.text for question in read_directory(tmp_path / "images", "what?")] == ["what?"] * 2


def test_questions_about_videos(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    np.save(tmp_path / "clip.npy", np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((6, 8, 3), np.uint8))
    lines = [
        {"video": "clip.npy", "question": "one?", "answer": "1"},
        {"image": "a.png", "video": ["clip.npy", "clip.npy"], "question": "three?", "answers": ["3"]},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    one, three = read_jsonl(tmp_path / "q.jsonl", frames=3)
    assert (len(one.images()), [len(clip) for clip in one.clips()]) == (0, [3])
    assert [frame.getpixel((0, 0)) for frame in one.clips()[0]] == [(level,) * 3 for level in (0, 2, 4)]
    assert (len(three.images()), [len(clip) for clip in three.clips()]) == (1, [3, 3])
    image, *clips = three.media()
    assert (image.size, [len(clip) for clip in clips]) == ((8, 6), [3, 3])
    assert [clip[1].getpixel((0, 0)) for clip in three.read().clips()] == [(2, 2, 2)] * 2


@pytest.mark.parametrize(
    ("answer", "accepted", "right"),
    [
        ("The red.", ["red"], True),
        ("RED", ["blue", "red"], True),
        ("redder", ["red"], False),
        ("a  big   cat", ["big cat"], True),
        ("", ["red"], False),
        ("another", ["other"], False),
    ],
)
def test_answers_are_compared_without_case_punctuation_and_articles(answer, accepted, right):
    assert is_right(answer, accepted) is right


def test_normalising_twice_changes_nothing():
    assert normalised(normalised("An  Apple, the pie!")) == normalised("An  Apple, the pie!") == "apple pie"
