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
        )
    ]
