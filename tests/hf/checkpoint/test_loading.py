"""What the command line gives to processors: media in prompt order, and one clear line where it cannot be done."""

import numpy as np
import pytest
import torch
from PIL import Image

from support import checkpoint, tiny
from support.cases import llava_next
from vflowopt import Strategy
from vflowopt.errors import InputError
from vflowopt_hf.adapter import TransformersAdapter
from vflowopt_hf.adapters import llava_onevision
from vflowopt_hf.checkpoint.loading import Checkpoint

FRAMES = [Image.new("RGB", (8, 6), (level,) * 3) for level in (10, 20)]
PHOTO = Image.new("RGB", (7, 7), "red")


class Recorder:
    """A processor that remembers what it is called with."""

    def __init__(self, error=None):
        self.error = error

    def apply_chat_template(self, conversation, *, add_generation_prompt):
        (message,) = conversation
        return " ".join(part.get("text", part["type"]) for part in message["content"])

    def __call__(self, **given):
        if self.error:
            raise self.error
        self.given = given
        return {"input_ids": torch.ones(1, 3, dtype=torch.int64)}


class Upstreams(Recorder):
    """With a video processor, like those of transformers."""

    video_processor = object()


@pytest.fixture(scope="module")
def onevision():
    return tiny.tiny_onevision()


def test_videos_follow_images_as_arrays(onevision):
    processor = Recorder()
    loaded = Checkpoint("m", onevision, processor, llava_onevision, llava_onevision.family)
    loaded.prepare([PHOTO], "why?", [FRAMES, FRAMES[:1]])
    assert processor.given["text"] == "image video video why?"
    assert processor.given["images"] == [[PHOTO]]
    assert [(video.dtype, video.shape) for video in processor.given["videos"]] == [
        (np.uint8, (2, 6, 8, 3)),
        (np.uint8, (1, 6, 8, 3)),
    ]
    assert processor.given["videos"][0][:, 0, 0, 0].tolist() == [10, 20]
    assert "do_sample_frames" not in processor.given


def test_upstreams_video_processors_are_not_to_sample_again(onevision):
    processor = Upstreams()
    Checkpoint("m", onevision, processor, llava_onevision, llava_onevision.family).prepare([], "why?", [FRAMES])
    assert processor.given["do_sample_frames"] is False
    assert "images" not in processor.given
    Checkpoint("m", onevision, processor, llava_onevision, llava_onevision.family).prepare([PHOTO], "why?")
    assert set(processor.given) == {"images", "text", "return_tensors"}


def test_a_family_without_videos_takes_them_only_as_frames_that_its_processor_makes_images():
    model, adapter = llava_next.CASE.model("sdpa"), TransformersAdapter(llava_next.CASE.family)
    with pytest.raises(InputError, match=r"m \(llava-next\) takes no videos; give their frames as images: --image"):
        Checkpoint("m", model, Recorder(), adapter, adapter.family).prepare([], "why?", [FRAMES])
    Checkpoint("m", model, Upstreams(), adapter, adapter.family).prepare([], "why?", [FRAMES])


def test_what_a_processor_refuses_is_bad_input(onevision):
    processor = Recorder(ValueError("aspect ratio must be smaller than 200\nand more"))
    with pytest.raises(
        InputError, match=r"processor of m refuses the inputs: aspect ratio must be .* 200 and more; check"
    ):
        Checkpoint("m", onevision, processor, llava_onevision, llava_onevision.family).prepare([PHOTO], "why?")


def test_plans_of_several_images_are_in_prompt_order_with_budgets_of_their_own(tmp_path):
    """The importance of an image does not depend on its place in the prompt, and images in company are not tiled."""
    loaded = llava_onevision.load(checkpoint.save(tmp_path))
    photos = [tiny.random_image(60, 84, 1), tiny.random_image(100, 40, 2), tiny.random_image(42, 42, 3)]
    strategy = Strategy.vflowopt(num_layers=tiny.LAYERS, retention=(0.6, 0.7, 0.5), threshold=1.0, cell=2.0)
    found = []
    for order in ([0, 1, 2], [2, 0, 1]):
        inputs = loaded.prepare([photos[index] for index in order], "w7 w8")
        with llava_onevision.prune(loaded.model, strategy, processor=loaded.processor) as pruning:
            loaded.generate(inputs, 1)
            found.append(dict(zip(order, [plan.to_host() for plan in pruning.plan], strict=True)))
            counts = [unit.counts for unit in pruning.report.units]
        assert counts == [strategy.schedule.counts(plan.tokens) for plan in found[-1].values()]
    for index in range(3):
        assert found[0][index].importance == pytest.approx(found[1][index].importance, rel=1e-3)
        assert (found[0][index].position[:, 0] <= 0).all()  # one crop, or a separator
    assert found[0][0].importance != pytest.approx(found[0][1].importance, rel=0.1)
