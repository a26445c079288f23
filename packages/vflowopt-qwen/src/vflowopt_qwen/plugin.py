"""What this package registers with vflowopt. Imports no torch."""

from vflowopt.adapter import AdapterDescriptor
from vflowopt.hookspecs import hookimpl


@hookimpl
def vflowopt_adapters() -> list[AdapterDescriptor]:
    """Families supported by this package."""
    return [
        AdapterDescriptor(
            name="qwen2-vl",
            model_types=("qwen2_vl",),
            target="vflowopt_qwen.adapters:qwen2_vl",
            summary="Qwen2-VL: images of any size, several images, video",
        ),
        AdapterDescriptor(
            name="qwen2.5-vl",
            model_types=("qwen2_5_vl",),
            target="vflowopt_qwen.adapters:qwen2_5_vl",
            summary="Qwen2.5-VL: images of any size, several images, video",
        ),
        AdapterDescriptor(
            name="qwen3-vl",
            model_types=("qwen3_vl", "qwen3_vl_moe", "cosmos3_omni"),
            target="vflowopt_qwen.adapters:qwen3_vl",
            summary="Qwen3-VL, dense and mixture of experts, Cosmos 3 Omni: images of any size, several images, video",
        ),
        AdapterDescriptor(
            name="qwen3.5",
            model_types=("qwen3_5", "qwen3_5_moe"),
            target="vflowopt_qwen.adapters:qwen3_5",
            summary="Qwen3.5 and 3.6, dense and mixture of experts: recurrent decoder layers, images, video",
        ),
        AdapterDescriptor(
            name="qwen2.5-omni",
            model_types=("qwen2_5_omni_thinker",),
            target="vflowopt_qwen.adapters:qwen2_5_omni",
            summary="The thinker of Qwen2.5-Omni: images of any size, several images, video beside audio",
        ),
        AdapterDescriptor(
            name="qwen3-omni",
            model_types=("qwen3_omni_moe_thinker",),
            target="vflowopt_qwen.adapters:qwen3_omni",
            summary="The thinker of Qwen3-Omni: images of any size, several images, video beside audio",
        ),
    ]
