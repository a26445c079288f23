"""The processor counts visual tokens as the model does, whatever the image's size, and refuses what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vflowopt_reference import NAMES, load_model, load_processor, path
from vflowopt_reference.architectures import named
from vflowopt_reference.architectures.llava_onevision import SHARED_TOKENS, frame_tokens, image_tokens
from vflowopt_reference.architectures.qwen2_vl import flat_patches
from vflowopt_reference.canvases import CANVASES
from vflowopt_reference.processor import ReferenceProcessor
from vflowopt_reference.tokenizer import build_tokenizer
from vflowopt_reference.training.examples import words
from vflowopt_reference.vocabulary import TURN_END, TURN_START, VOCABULARY

QUESTION = "what color is the circle?"
ODD_SIZES = [(50, 50), (7, 900), (900, 7), (333, 111), (480, 640), (1000, 1001), (1, 500), (113, 112), (640, 427)]
LARGE = {(1000, 1001): 62 * 63, (480, 640): 30 * 40, (640, 427): 40 * 27}
"""Visual tokens of models that do not shrink these: sides rounded to 16 pixels. The model on them is slow."""
NATIVE = ("reference-qwen2vl", "reference-qwen35")
"""Models that see an image at its own resolution."""

ONE_EACH = tuple({named(name).model_type: name for name in reversed(NAMES)}.values())
"""A model of each architecture."""


@pytest.fixture(scope="module", params=ONE_EACH)
def any_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def any_model(any_name: str) -> Any:
    return load_model(any_name)


@pytest.fixture(scope="module")
def any_processor(any_name: str) -> ReferenceProcessor:
    return load_processor(any_name)


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model()


@pytest.fixture(scope="module")
def processor() -> ReferenceProcessor:
    return load_processor()


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [*CANVASES, *ODD_SIZES])
def test_token_counts_agree_with_the_model(
    size: tuple[int, int], any_name: str, any_model: Any, any_processor: ReferenceProcessor
) -> None:
    if any_name in NATIVE and max(size) > 200 * min(size):
        with pytest.raises(ValueError, match="aspect ratio"):
            any_processor(images=noise(size), text=any_processor.prompt(QUESTION))
        return
    inputs = any_processor(images=noise(size), text=any_processor.prompt(QUESTION))
    placeholders = int((inputs["input_ids"] == any_processor.image_token_id).sum())
    if any_name in NATIVE and size in LARGE:
        assert placeholders == LARGE[size]
        return
    assert_the_model_agrees(any_model, inputs, placeholders)


@pytest.mark.slow
@pytest.mark.parametrize("size", LARGE)
def test_token_counts_of_large_images_agree_with_qwen2_vl(size: tuple[int, int]) -> None:
    model, processor = load_model("reference-qwen2vl"), load_processor("reference-qwen2vl")
    inputs = processor(images=noise(size), text=processor.prompt(QUESTION))
    assert_the_model_agrees(model, inputs, LARGE[size])


def assert_the_model_agrees(model: Any, inputs: Any, placeholders: int) -> None:
    pixels = {k: v for k, v in inputs.items() if k in ("pixel_values", "image_sizes", "image_grid_thw")}
    with torch.inference_mode():
        features = model.model.get_image_features(**pixels).pooler_output
        out = model(**inputs)
    assert placeholders == len(features[0])
    assert torch.isfinite(out.logits).all()


@pytest.mark.parametrize("canvas", CANVASES)
def test_training_views_are_the_image_processors(
    canvas: tuple[int, int], any_name: str, any_processor: ReferenceProcessor
) -> None:
    image, architecture = noise(canvas), named(any_name)
    own = architecture.normalise(architecture.views(np.asarray(image)))
    theirs = any_processor.image_processor([image], return_tensors="pt")["pixel_values"]
    if any_name in NATIVE:
        own = flat_patches(own[:, None].expand(-1, 2, -1, -1, -1))
    torch.testing.assert_close(theirs.reshape(own.shape), own, atol=2e-6, rtol=0)


def test_counts_span_the_documented_range() -> None:
    counts = [image_tokens(canvas) for canvas in CANVASES]
    assert (min(counts), max(counts)) == (406, 1008)


def test_images_that_share_a_prompt_are_not_tiled(model: Any, processor: ReferenceProcessor) -> None:
    one, two, three = noise((112, 160)), noise((224, 112), 1), noise((224, 224), 2)
    prompts = [processor.prompt(QUESTION, images=2), processor.prompt(QUESTION)]
    inputs = processor(images=[[one, two], [three]], text=prompts)
    counts = (inputs["input_ids"] == processor.image_token_id).sum(1).tolist()
    assert counts == [2 * SHARED_TOKENS, 1008]
    assert inputs["batch_num_images"].tolist() == [2, 1]
    with torch.inference_mode():
        assert torch.isfinite(model(**inputs).logits).all()


def test_clips(model: Any, processor: ReferenceProcessor) -> None:
    clip = np.zeros((5, 60, 80, 3), np.uint8)
    frames = [Image.fromarray(frame) for frame in clip]
    inputs = processor(videos=[clip, frames], text=[processor.prompt(QUESTION, images=0, videos=1)] * 2)
    assert (inputs["input_ids"] == processor.video_token_id).sum(1).tolist() == [frame_tokens(5)] * 2
    with torch.inference_mode():
        assert torch.isfinite(model(**inputs).logits).all()


def test_clips_of_different_sizes_and_lengths_go_into_one_batch_of_qwen2_vl() -> None:
    model, processor = load_model("reference-qwen2vl"), load_processor("reference-qwen2vl")
    clips = [np.zeros((5, 60, 80, 3), np.uint8), np.zeros((2, 33, 47, 3), np.uint8)]
    inputs = processor(videos=clips, text=[processor.prompt(QUESTION, images=0, videos=1)] * 2)
    # Frames in pairs, sides rounded to 16 pixels: 3 x 4 x 5 and 1 x 2 x 3 visual tokens.
    assert (inputs["input_ids"] == processor.video_token_id).sum(1).tolist() == [60, 6]
    assert inputs["video_grid_thw"].tolist() == [[3, 8, 10], [1, 4, 6]]
    with torch.inference_mode():
        assert torch.isfinite(model(**inputs).logits).all()


def test_llava_next_refuses_clips() -> None:
    processor = load_processor("reference-next")
    with pytest.raises(ValueError, match="images only"):
        processor(videos=[np.zeros((2, 8, 8, 3), np.uint8)], text="<video>")


def test_batches_are_padded_on_the_left_and_generate_like_single_prompts(
    any_model: Any, any_processor: ReferenceProcessor
) -> None:
    model, processor = any_model, any_processor
    images = [noise((112, 112)), noise((224, 176), 1)]
    prompts = [processor.prompt(QUESTION), processor.prompt("what digit is on the red star?")]
    batch = processor(images=images, text=prompts, padding=True, return_tensors="pt")
    assert batch["attention_mask"][:, -1].tolist() == [1, 1]
    assert batch["attention_mask"][0, 0] == 0
    together = model.generate(**batch, max_new_tokens=2, do_sample=False)[:, batch["input_ids"].shape[1] :]
    for row, (image, text) in enumerate(zip(images, prompts, strict=True)):
        alone = processor(images=[image], text=[text])
        out = model.generate(**alone, max_new_tokens=2, do_sample=False)[0, alone["input_ids"].shape[1] :]
        assert processor.decode(together[row]) == processor.decode(out)


def test_text_alone(model: Any, processor: ReferenceProcessor) -> None:
    inputs = processor(text=processor.prompt(QUESTION, images=0))
    assert set(inputs) == {"input_ids", "attention_mask"}
    with torch.inference_mode():
        assert torch.isfinite(model(**inputs).logits).all()


def test_the_prompt_is_the_one_of_training(processor: ReferenceProcessor) -> None:
    ids = processor.tokenizer(processor.prompt(QUESTION))["input_ids"]
    start, user, image, *rest = ids
    assert [start, user, image] == [VOCABULARY[TURN_START], VOCABULARY["user"], processor.image_token_id]
    assert rest == [VOCABULARY[word] for word in (*words(QUESTION), TURN_END, TURN_START, "assistant")]


def test_wording_survives_case_and_spaces(processor: ReferenceProcessor) -> None:
    plain = processor.tokenizer(QUESTION)["input_ids"]
    assert processor.tokenizer("What color is  the Circle ?")["input_ids"] == plain
    assert processor.decode(plain) == "what color is the circle ?"


@pytest.mark.parametrize("name", NAMES)
def test_shipped_files_are_those_the_code_writes(name: str) -> None:
    processor = load_processor(name)
    vocabulary = named(name).task.vocabulary
    assert processor.tokenizer.get_vocab() == build_tokenizer(vocabulary).get_vocab() == dict(vocabulary)
    assert processor.tokenizer.chat_template == build_tokenizer().chat_template
    for file, content in named(name).processor_files().items():
        assert json.loads((path(name) / file).read_text()) == content
    written = json.loads((path(name) / "config.json").read_text())
    built = named(name).configuration().to_dict()
    for part in ("vision_config", "text_config"):
        same = {key: value for key, value in written[part].items() if key not in ("dtype", "transformers_version")}
        assert same.items() <= built[part].items()


def test_weights_of_an_unknown_architecture_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(ValueError, match="type 'llava'"):
        load_processor(tmp_path)
    with pytest.raises(ValueError, match="reference-next"):
        named("reference-nxt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": [noise((64, 64))], "text": "what color is the circle?"}, "0 <image> placeholders, but 1 images"),
        ({"text": "<image> what?"}, "1 <image> placeholders, but 0 images"),
        ({"images": [noise((64, 64))]}, "text is needed"),
        ({"videos": [np.zeros((2, 8, 8, 3)), np.zeros((3, 8, 8, 3))], "text": "<video><video>"}, r"got \[2, 3\]"),
        ({"videos": [[]], "text": "<video>"}, "at least one frame"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: Any, message: str, processor: ReferenceProcessor) -> None:
    with pytest.raises(ValueError, match=message):
        processor(**arguments)
