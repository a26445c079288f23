"""Checkpoints without weights: transformers reads them as the models that they stand for."""

import pytest
from PIL import Image
from transformers import AutoConfig, PreTrainedTokenizerFast
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vflowopt_vllm.bench.shapes import shapes
from vflowopt_vllm.bench.workload import WORDS, Workload
from vflowopt_vllm.command import main


@pytest.mark.parametrize(
    ("name", "architecture", "layers", "vocabulary"),
    [
        ("qwen2-vl-mid", "Qwen2VLForConditionalGeneration", 16, 512),
        ("mid", "LlavaOnevisionForConditionalGeneration", 12, 512),  # whose placeholders have the ids 1 and 2
        ("llava-onevision-7b", "LlavaOnevisionForConditionalGeneration", 28, 152064),
    ],
)
def test_a_shape_is_a_checkpoint(name, architecture, layers, vocabulary, tmp_path):
    assert main(["shape", name, str(tmp_path / "shape")]) == 0
    config = AutoConfig.from_pretrained(tmp_path / "shape")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "shape")
    assert config.architectures == [architecture]
    assert (config.text_config.num_hidden_layers, config.text_config.vocab_size) == (layers, vocabulary)
    assert len(tokenizer) == vocabulary
    assert tokenizer.image_token == "<image>"
    assert tokenizer.convert_ids_to_tokens(tokenizer.convert_tokens_to_ids(["nothing"])) == ["<unk>"]
    assert tokenizer.convert_tokens_to_ids(["<image>", "<video>"]) == [config.image_token_id, config.video_token_id]
    assert tokenizer.eos_token_id == config.text_config.eos_token_id
    (messages,) = Workload(requests=1, size=(28, 28), words=5).messages(0)
    content = [{"type": "image"}, messages[0]["content"][1]]
    told = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    words = tokenizer.tokenize(told)
    assert words[:3] == ["<|im_start|>", "user", "<image>"]
    assert len(words) == 3 + 5 + 1
    assert set(words[3:8]) <= set(WORDS)


def test_images_become_as_many_tokens_as_the_model_says(tmp_path):
    main(["shape", "qwen2-vl-mid", str(tmp_path / "qwen")])
    picture = Image.new("RGB", (1260, 1260))
    made = Qwen2VLImageProcessorPil.from_pretrained(tmp_path / "qwen")(picture, return_tensors="np")
    assert made["image_grid_thw"].tolist() == [[1, 90, 90]]  # 2,025 tokens of 2 x 2 patches
    main(["shape", "llava-onevision-7b", str(tmp_path / "onevision")])
    made = LlavaOnevisionImageProcessorPil.from_pretrained(tmp_path / "onevision")(picture, return_tensors="np")
    assert made["pixel_values"].shape == (1, 17, 3, 384, 384)  # 1,260 pixels want 4 x 4 tiles


def test_wrong_names_and_used_directories_are_refused(tmp_path, capsys):
    assert main(["shape", "nothing", str(tmp_path / "new")]) == 2
    assert f"there are {', '.join(shapes())}" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    (tmp_path / "used").write_text("")
    assert main(["shape", "qwen2-vl-mid", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["shape", "qwen2-vl-mid", str(tmp_path / "used")]) == 2
