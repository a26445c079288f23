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
        )
    ]
