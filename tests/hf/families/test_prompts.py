"""Questions put to models without a chat template."""

from types import SimpleNamespace

from vflowopt_hf.families.paligemma import PaliGemma


def test_paligemmas_images_stand_before_its_task():
    processor = SimpleNamespace(image_token="<image>")
    assert PaliGemma().answer_prompt(processor, 2, "caption en") == "<image><image>caption en"
