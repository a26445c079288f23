"""What is known of each multimodal model type of transformers: the one place where it is written.

``vflowopt adapters --all`` shows it, and refusals (:mod:`vflowopt.discovery.refusals`) and the tables of
``docs/families.md`` are made of it. Nothing here decides whether a model is pruned: installed adapters claim types.
"""

from dataclasses import dataclass

OFFICIAL_ADAPTERS = {
    "aya_vision": "vflowopt-hf",
    "cohere2_vision": "vflowopt-hf",
    "fast_vlm": "vflowopt-hf",
    "gemma3": "vflowopt-hf",
    "gemma4": "vflowopt-hf",
    "glm46v": "vflowopt-hf",
    "glm4v": "vflowopt-hf",
    "glm4v_moe": "vflowopt-hf",
    "glm_ocr": "vflowopt-hf",
    "glmga": "vflowopt-hf",
    "idefics2": "vflowopt-hf",
    "idefics3": "vflowopt-hf",
    "internvl": "vflowopt-hf",
    "kimi_k25": "vflowopt-hf",
    "lfm2_vl": "vflowopt-hf",
    "lighton_ocr": "vflowopt-hf",
    "llava": "vflowopt-hf",
    "llava_next": "vflowopt-hf",
    "llava_next_video": "vflowopt-hf",
    "llava_onevision": "vflowopt-hf",
    "minicpmv4_6": "vflowopt-hf",
    "mistral3": "vflowopt-hf",
    "molmo2": "vflowopt-hf",
    "nemotron_h_omni": "vflowopt-hf",
    "ovis2": "vflowopt-hf",
    "paddleocr_vl": "vflowopt-hf",
    "paligemma": "vflowopt-hf",
    "perception_lm": "vflowopt-hf",
    "qianfan_ocr": "vflowopt-hf",
    "smolvlm": "vflowopt-hf",
    "vipllava": "vflowopt-hf",
    "cosmos3_omni": "vflowopt-qwen",
    "qwen2_5_omni_thinker": "vflowopt-qwen",
    "qwen2_5_vl": "vflowopt-qwen",
    "qwen2_vl": "vflowopt-qwen",
    "qwen3_5": "vflowopt-qwen",
    "qwen3_5_moe": "vflowopt-qwen",
    "qwen3_omni_moe_thinker": "vflowopt-qwen",
    "qwen3_vl": "vflowopt-qwen",
    "qwen3_vl_moe": "vflowopt-qwen",
}
"""Which package of this project to install for a model type."""

ADAPTERS_AWAY = {
    "cohere_compass": ("qwen3_vl", "flat patches, features at several depths"),
    "cosmos3_edge": ("qwen2_vl", "flat patches, a projector behind the tower"),
    "deepseek_vl": ("paligemma", "SigLIP, every patch a visual token; examples/vflowopt-deepseek-vl has the adapter"),
    "deepseek_vl_hybrid": ("paligemma", "a second tower for fine detail beside SigLIP"),
    "ernie4_5_vl_moe": ("qwen2_vl", "flat patches, merged over space and time"),
    "exaone4_5": ("qwen2_5_vl", "the same parts, another decoder"),
    "granite_docling": ("idefics3", "tiles, features at several depths"),
    "hunyuan_vl": ("qwen2_vl", "flat patches, separators among the features"),
    "hyperclovax_vision_v2": ("qwen2_5_vl", "its tower, a projector behind it"),
    "janus": ("paligemma", "every patch a visual token; images only as input"),
    "lfm3_vl": ("lfm2_vl", "flat patches, convolutions in the tower and in the decoder"),
    "minicpm_ocr": ("minicpmv4_6", "its decoder, merging inside the tower"),
    "minicpmv4_7": ("minicpmv4_6", "its tower and decoder, multimodal rotary positions"),
    "muse_glimmer": ("qwen2_5_vl", "flat patches, windows in the tower"),
    "muse_spark": ("qwen2_5_vl", "flat patches, windows in the tower"),
    "shieldgemma2": ("gemma3", "Gemma 3 that classifies"),
    "step3p7": ("internvl", "whole images and crops in two calls of the tower"),
    "video_llama_3": ("qwen2_vl", "flat patches, a merge size per image"),
    "video_llava": ("llava", "two towers, whose encoders take other arguments"),
}
"""Model types for which nothing but an adapter is missing: the nearest supported type, and what is to be told."""

CONVOLVED = "decoder layers that keep keys and the window of a short convolution in one"
SPARSE = "decoder layers whose indexer chooses which keys a query sees"
CHUNKED = "decoder layers with chunked attention, whose chunks would have to count unpruned tokens"
RELATIVE = "a vision tower that adds relative positions to its attention by hand, where nothing can look on"
RESAMPLED = "importance through a resampler that does not attend to patches as that of Idefics2 does"
STREAMS = "a decoder whose hidden states are several streams"
WITHIN = "a way to look at images that are encoded inside the embedding layer, not by get_image_features"
DENOISED = "pruning under answers that are denoised in blocks, in several passes over prompt and answer"

CAPABILITIES_AWAY = {
    "aria": ("idefics3", RESAMPLED),
    "blip-2": ("llava", RESAMPLED),
    "deepseek_ocr2": ("internvl", RELATIVE),
    "diffusion_gemma": ("gemma3", DENOISED),
    "dots3_note": ("qwen2_vl", SPARSE),
    "gemma3n": ("gemma3", STREAMS),
    "glm5_next": ("glm4v", SPARSE),
    "got_ocr2": ("internvl", RELATIVE),
    "granite4_vision": ("llava_next", RESAMPLED),
    "hy_v4_vl": ("qwen2_vl", SPARSE),
    "inkling2": ("qwen2_vl", CONVOLVED),
    "inkling2_loop": ("qwen2_vl", CONVOLVED),
    "instructblip": ("llava", RESAMPLED),
    "instructblipvideo": ("llava", RESAMPLED),
    "llama4": ("internvl", CHUNKED),
    "minimax_m3_vl": ("qwen2_vl", SPARSE),
    "mistral_large4": ("mistral3", SPARSE),
    "phi4_multimodal": ("internvl", WITHIN),
    "pp_chart2table": ("internvl", RELATIVE),
    "qwen4_exp": ("qwen3_5", SPARSE),
    "unlimited_ocr": ("internvl", RELATIVE),
}
"""Model types that need more than an adapter: the nearest supported type, and the capability that is missing."""

_AUDIO = "it hears and reads, and sees no images"
_CROSS = "its decoder reads images by cross-attention: no rows of it stand for visual tokens"
_ENCODER = "images go into an encoder whose output a decoder reads by cross-attention"
_WORDS = "images become words of a vocabulary, or patches without a vision tower: no attention says what matters"

NOT_THIS_METHOD = {
    "apertus1p5": _WORDS,
    "blip": _CROSS,
    "chameleon": _WORDS,
    "emu3": _WORDS,
    "evolla": "it reads proteins, and sees no images",
    "florence2": _ENCODER,
    "fun_asr_nano": _AUDIO,
    "fuyu": _WORDS,
    "gemma4_unified": _WORDS,
    "git": "visual tokens stand before the prompt, without placeholders that would say where",
    "glmasr": _AUDIO,
    "granite_speech": _AUDIO,
    "granite_speech_plus": _AUDIO,
    "idefics": _CROSS,
    "inkling_mm_model": _WORDS,
    "kosmos-2": "a resampler makes few visual tokens, and masks instead of placeholders say where they stand",
    "kosmos-2.5": "a resampler makes the visual tokens, and masks instead of placeholders say where they stand",
    "kyutai_speech_to_text": _AUDIO,
    "mistral4": "it reads text only",
    "mllama": _CROSS,
    "moss_transcribe_diarize": _AUDIO,
    "nemo_speechlm": _AUDIO,
    "omniasr": _AUDIO,
    "pi0": "it makes the movements of a robot, and no text",
    "pix2struct": _ENCODER,
    "pp_formulanet": _ENCODER,
    "qwen2_5_omni": "prune and ask its thinker (qwen2_5_omni_thinker): model.thinker",
    "qwen2_audio": _AUDIO,
    "qwen3_asr": _AUDIO,
    "qwen3_omni_moe": "prune and ask its thinker (qwen3_omni_moe_thinker): model.thinker",
    "t5gemma2": _ENCODER,
    "udop": _ENCODER,
    "vibevoice_asr": _AUDIO,
    "vision-encoder-decoder": _ENCODER,
    "voxtral": _AUDIO,
    "voxtral_realtime": _AUDIO,
}
"""Model types that are not a matter of this method, and why."""


@dataclass(frozen=True)
class Verdict:
    """What is known of a model type.

    Attributes:
        status: ``"supported"``, or what is missing: ``"adapter"``, ``"capability"``; or ``"other method"``.
        nearest: the nearest supported type; empty where it does not matter.
        told: the package, what is to be told of the adapter, the capability that is missing, or why it never will be.
    """

    status: str
    nearest: str
    told: str


def verdicts() -> dict[str, Verdict]:
    """Of every model type that is known, in alphabetical order."""
    found = {kind: Verdict("supported", "", package) for kind, package in OFFICIAL_ADAPTERS.items()}
    found |= {kind: Verdict("adapter", *known) for kind, known in ADAPTERS_AWAY.items()}
    found |= {kind: Verdict("capability", *known) for kind, known in CAPABILITIES_AWAY.items()}
    found |= {kind: Verdict("other method", "", reason) for kind, reason in NOT_THIS_METHOD.items()}
    return dict(sorted(found.items()))
