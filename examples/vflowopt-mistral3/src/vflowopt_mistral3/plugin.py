"""What this package registers with vflowopt. Imports no torch."""

from vflowopt.adapter import AdapterDescriptor
from vflowopt.hookspecs import hookimpl

vflowopt_api = 1


@hookimpl
def vflowopt_adapters() -> list[AdapterDescriptor]:
    """The family of this package."""
    return [
        AdapterDescriptor(
            name="mistral3",
            model_types=("mistral3",),
            target="vflowopt_mistral3.family:mistral3",
            summary="Mistral 3: images of any size, several images",
        )
    ]
