"""What this package registers with vflowopt. Imports no torch."""

from vflowopt.adapter import AdapterDescriptor
from vflowopt.hookspecs import hookimpl


@hookimpl
def vflowopt_adapters() -> list[AdapterDescriptor]:
    """Families supported by this package."""
    return [
        AdapterDescriptor(
            name="llava-onevision",
            model_types=("llava_onevision",),
            target="vflowopt_hf.adapters:llava_onevision",
            summary="LLaVA-OneVision: anyres images, several images, video",
        ),
        AdapterDescriptor(
            name="llava",
            model_types=("llava",),
            target="vflowopt_hf.adapters:llava",
            summary="LLaVA-1.5: images of one crop each, several images",
        ),
        AdapterDescriptor(
            name="llava-next",
            model_types=("llava_next",),
            target="vflowopt_hf.adapters:llava_next",
            summary="LLaVA-NeXT (1.6): anyres images, several images",
        ),
        AdapterDescriptor(
            name="llava-next-video",
            model_types=("llava_next_video",),
            target="vflowopt_hf.adapters:llava_next_video",
            summary="LLaVA-NeXT-Video: anyres images, several images, video",
        ),
        AdapterDescriptor(
            name="gemma3",
            model_types=("gemma3",),
            target="vflowopt_hf.adapters:gemma3",
            summary="Gemma 3: images, several images, sliding-window decoder layers",
        ),
        AdapterDescriptor(
            name="internvl",
            model_types=("internvl",),
            target="vflowopt_hf.adapters:internvl",
            summary="InternVL: tiled images, several images, video frames as images",
        ),
        AdapterDescriptor(
            name="idefics3",
            model_types=("idefics3",),
            target="vflowopt_hf.adapters:idefics3",
            summary="Idefics3: split images, several images",
        ),
        AdapterDescriptor(
            name="smolvlm",
            model_types=("smolvlm",),
            target="vflowopt_hf.adapters:smolvlm",
            summary="SmolVLM: split images, several images, video frames as images",
        ),
        AdapterDescriptor(
            name="mistral3",
            model_types=("mistral3",),
            target="vflowopt_hf.adapters:mistral3",
            summary="Mistral 3: images of any size, several images",
        ),
        AdapterDescriptor(
            name="lighton-ocr",
            model_types=("lighton_ocr",),
            target="vflowopt_hf.adapters:lighton_ocr",
            summary="LightOnOCR: images of any size, several images",
        ),
        AdapterDescriptor(
            name="glm4v",
            model_types=("glm4v", "glm4v_moe", "glm46v", "glmga", "glm_ocr"),
            target="vflowopt_hf.adapters:glm4v",
            summary="GLM-4.1V, 4.5V, 4.6V, GLM-OCR: images of any size, several images, video",
        ),
        AdapterDescriptor(
            name="paddleocr-vl",
            model_types=("paddleocr_vl",),
            target="vflowopt_hf.adapters:paddleocr_vl",
            summary="PaddleOCR-VL: images of any size, several images",
        ),
        AdapterDescriptor(
            name="kimi-k2.5",
            model_types=("kimi_k25",),
            target="vflowopt_hf.adapters:kimi_k25",
            summary="Kimi-K2.5: images of any size, several images, video in chunks",
        ),
        AdapterDescriptor(
            name="paligemma",
            model_types=("paligemma",),
            target="vflowopt_hf.adapters:paligemma",
            summary="PaliGemma 1 and 2: images of one view each, several images",
        ),
        AdapterDescriptor(
            name="aya-vision",
            model_types=("aya_vision",),
            target="vflowopt_hf.adapters:aya_vision",
            summary="Aya Vision: tiled images, several images",
        ),
        AdapterDescriptor(
            name="cohere2-vision",
            model_types=("cohere2_vision",),
            target="vflowopt_hf.adapters:cohere2_vision",
            summary="Cohere 2 Vision: tiled images, several images",
        ),
        AdapterDescriptor(
            name="ovis2",
            model_types=("ovis2",),
            target="vflowopt_hf.adapters:ovis2",
            summary="Ovis2: tiled images, several images",
        ),
        AdapterDescriptor(
            name="vipllava",
            model_types=("vipllava",),
            target="vflowopt_hf.adapters:vipllava",
            summary="ViP-LLaVA: images of one crop each, several images",
        ),
        AdapterDescriptor(
            name="qianfan-ocr",
            model_types=("qianfan_ocr",),
            target="vflowopt_hf.adapters:qianfan_ocr",
            summary="Qianfan-OCR: tiled images, several images",
        ),
        AdapterDescriptor(
            name="gemma4",
            model_types=("gemma4",),
            target="vflowopt_hf.adapters:gemma4",
            summary="Gemma 4: images of any shape, several images, video",
        ),
        AdapterDescriptor(
            name="lfm2-vl",
            model_types=("lfm2_vl",),
            target="vflowopt_hf.adapters:lfm2_vl",
            summary="LFM2-VL: convolutional decoder layers, images of any shape, several images",
        ),
        AdapterDescriptor(
            name="minicpm-v-4.6",
            model_types=("minicpmv4_6",),
            target="vflowopt_hf.adapters:minicpm_v4_6",
            summary="MiniCPM-V 4.6: recurrent decoder layers, sliced images, several images",
        ),
        AdapterDescriptor(
            name="molmo2",
            model_types=("molmo2",),
            target="vflowopt_hf.adapters:molmo2",
            summary="Molmo2: images in overlapping crops, several images, video",
        ),
        AdapterDescriptor(
            name="nemotron-h",
            model_types=("nemotron_h_omni",),
            target="vflowopt_hf.adapters:nemotron_h",
            summary="Nemotron-H Omni: Mamba 2 decoder layers, images of any size, several images",
        ),
        AdapterDescriptor(
            name="idefics2",
            model_types=("idefics2",),
            target="vflowopt_hf.adapters:idefics2",
            summary="Idefics2: a resampler, images of any size, several images",
        ),
        AdapterDescriptor(
            name="perception-lm",
            model_types=("perception_lm",),
            target="vflowopt_hf.adapters:perception_lm",
            summary="Perception LM: a tower of timm, tiled images, several images",
        ),
        AdapterDescriptor(
            name="fast-vlm",
            model_types=("fast_vlm",),
            target="vflowopt_hf.adapters:fast_vlm",
            summary="FastVLM: a convolutional tower of timm, several images",
        ),
    ]
