"""What this package registers with vflowopt. Imports no torch."""

from vflowopt.adapter import AdapterDescriptor
from vflowopt.hookspecs import hookimpl

vflowopt_api = 1


@hookimpl
def vflowopt_adapters() -> list[AdapterDescriptor]:
    """The family of this package."""
    return [
        AdapterDescriptor(
            name="deepseek-vl",
            model_types=("deepseek_vl",),
            target="vflowopt_deepseek_vl.family:deepseek_vl",
            summary="DeepSeek-VL: images of one view each, several images",
        )
    ]
