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
    ]
