"""Chat messages of tasks as questions; needs no lmms-eval."""

import numpy as np
import pytest
from PIL import Image

from vflowopt.errors import InputError
from vflowopt_lmms.conversation import read_messages


def user(*parts):
    return [{"role": "user", "content": list(parts)}]


def text(words):
    return {"type": "text", "text": words}


@pytest.fixture
def files(tmp_path):
    Image.new("RGB", (8, 6), (9, 0, 0)).save(tmp_path / "a.png")
    np.save(tmp_path / "clip.npy", np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((4, 5, 3), np.uint8))
    return tmp_path


def test_images_come_as_pictures_and_as_paths(files):
    picture = {"type": "image", "url": Image.new("L", (3, 2), 7)}
    path = {"type": "image", "url": str(files / "a.png")}
    turn = read_messages(user(picture, path, text("which?"), text("answer briefly")), frames=4)
    first, second = turn.question.images()
    assert (first.mode, first.size, first.getpixel((0, 0))) == ("RGB", (3, 2), (7, 7, 7))
    assert second.getpixel((0, 0)) == (9, 0, 0)
    assert turn.question.text == "which?\nanswer briefly"
    assert not turn.reordered


def test_videos_are_sampled_evenly(files):
    turn = read_messages(user({"type": "video", "url": str(files / "clip.npy")}, text("what?")), frames=3)
    (clip,) = turn.question.clips()
    assert [frame.getpixel((0, 0))[0] for frame in clip] == [0, 2, 5]
    assert not turn.reordered


def test_a_plain_text_is_a_question_without_images():
    turn = read_messages([{"role": "user", "content": "two plus two?"}], frames=4)
    assert (turn.question.text, turn.question.media(), turn.reordered) == ("two plus two?", [], False)


def test_text_before_an_image_is_noticed(files):
    picture = {"type": "image", "url": str(files / "a.png")}
    assert read_messages(user(text("this:"), picture, text("what is it?")), frames=4).reordered


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ([], "nobody"),
        ([{"role": "system", "content": "be brief"}, *user(text("hi"))], "system, user"),
        ([*user(text("hi")), {"role": "assistant", "content": "hello"}, *user(text("so?"))], "user, assistant, user"),
        (user({"type": "audio", "url": "a.wav"}), "audio"),
        (user({"type": "image", "url": 3}), "int"),
        (user({"type": "video", "url": {"path": "v.mp4"}}), "dict"),
        (user({"type": "video", "url": "v.mp4", "start_time": 3.0}), "excerpt"),
        (user({"type": "video", "url": "nowhere.mp4"}), "nowhere.mp4"),
    ],
)
def test_what_cannot_be_asked_is_named(messages, named):
    with pytest.raises(InputError, match=named):
        read_messages(messages, frames=4)
