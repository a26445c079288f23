"""Checkpoints without weights: models of published sizes, which vLLM fills at random (``--load-format dummy``)."""

import json
from collections.abc import Callable, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

from vflowopt.benchmark import BenchShape
from vflowopt.errors import InputError, shown
from vflowopt.files.output import claim_folder, make_folder
from vflowopt_vllm.architectures import BY_UPSTREAM
from vflowopt_vllm.bench.workload import WORDS

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} {% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] if part['type'] == 'image' %}<image>"
    "{% endfor %}{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
"""Template of a conversation, images first."""

SPECIAL = ("<pad>", "<unk>", "<|im_start|>", "<|im_end|>")
"""Tokens of every vocabulary beside the placeholders."""


def shapes() -> dict[str, BenchShape]:
    """Those of the served families, by name."""
    return {shape.name: shape for upstream in _PROCESSORS for shape in BY_UPSTREAM[upstream].family().shapes()}


def write_shape(name: str, directory: Path) -> None:
    """Write configuration, tokenizer and image processor of a shape.

    The tokenizer knows made-up words, as many as the model has tokens: one word is one token.

    Args:
        name: of the shape.
        directory: made if it is not there.

    Raises:
        InputError: there is no such shape, or the directory holds something.
        OutputError: the directory cannot be written to.
    """
    offered = shapes()
    if name not in offered:
        raise InputError(f"there is no shape {shown(name)} with an image processor; there are {', '.join(offered)}")
    claim_folder(directory)
    if directory.is_dir() and any(directory.iterdir()):
        raise InputError(f"{str(directory)!r} is not empty; name another directory")
    model = offered[name].build("meta", "bfloat16")
    config, architecture = model.config, type(model).__name__
    config.architectures = [architecture]
    tokenizer, text = _tokenizer(config), config.get_text_config()
    text.bos_token_id, text.eos_token_id = None, tokenizer.eos_token_id
    config.save_pretrained(make_folder(directory))
    tokenizer.save_pretrained(directory)
    for file, content in _PROCESSORS[architecture](config).items():
        (directory / file).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _tokenizer(config: Any) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    placeholders = {config.image_token_id: "<image>", config.video_token_id: "<video>"}
    words = chain(SPECIAL, ("user", "assistant"), WORDS, (f"w{number}" for number in count()))
    vocabulary = {
        placeholders.get(number) or next(words): number for number in range(config.get_text_config().vocab_size)
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([*SPECIAL, *placeholders.values()])
    pad, unknown, _, end = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        unk_token=unknown,
        eos_token=end,
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
        chat_template=CHAT,
    )


def _qwen2_vl(config: Any) -> dict[str, Any]:
    vision = config.vision_config
    images = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384},
    }
    return {"preprocessor_config.json": images, "processor_config.json": {"processor_class": "Qwen2VLProcessor"}}


def _llava_onevision(config: Any) -> dict[str, Any]:
    vision = config.vision_config
    size = {"height": vision.image_size, "width": vision.image_size}
    images = {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "size": size,
        "image_grid_pinpoints": config.image_grid_pinpoints,
    }
    videos = {"video_processor_type": "LlavaOnevisionVideoProcessor", "size": size, "do_sample_frames": False}
    processor = {
        "processor_class": "LlavaOnevisionProcessor",
        "image_processor": images,
        "video_processor": videos,
        "image_token": "<image>",
        "video_token": "<video>",
        "num_image_tokens": (vision.image_size // vision.patch_size) ** 2,
        "vision_aspect_ratio": config.vision_aspect_ratio,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
    }
    return {"preprocessor_config.json": images, "processor_config.json": processor}


_PROCESSORS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "Qwen2VLForConditionalGeneration": _qwen2_vl,
    "LlavaOnevisionForConditionalGeneration": _llava_onevision,
}
"""Files of the image processor, by vLLM's name of the architecture."""
