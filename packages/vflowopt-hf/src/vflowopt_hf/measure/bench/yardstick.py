"""What the machine can do: a large matrix product and a large copy, timed in the same rounds as everything else."""

from collections.abc import Callable, Mapping

import torch

from vflowopt.benchmark import Rates
from vflowopt.benchmark.timing import Timing

PRODUCT, COPY = "matrix product", "copy"


def side(device: torch.device) -> int:
    """Rows and columns of the square matrices: large enough for the machine's full rate."""
    return 8192 if device.type == "cuda" else 1024


def copied(device: torch.device) -> int:
    """Bytes of the copy: far more than any cache holds."""
    return (1 << 30) if device.type == "cuda" else (1 << 27)


def yardsticks(device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """The two tasks."""
    generator = torch.Generator(device).manual_seed(0)
    square = torch.randn(side(device), side(device), generator=generator, device=device).to(dtype)
    product, source = torch.empty_like(square), torch.ones(copied(device), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return {PRODUCT: lambda: torch.mm(square, square, out=product), COPY: lambda: target.copy_(source)}


def rates(device: torch.device, measured: Mapping[str, Timing]) -> Rates:
    """FLOPs and bytes per second that the medians of the two tasks come to; a copied byte is read and written."""
    product, copy = measured[f"/{PRODUCT}"].wall.median, measured[f"/{COPY}"].wall.median
    return Rates(2 * side(device) ** 3 / product, 2 * copied(device) / copy)


def device_name(device: torch.device, dtype: torch.dtype) -> str:
    """What a benchmark ran on, for example ``"CPU, 2 threads, float32"``."""
    threads = torch.get_num_threads()
    name = f"CPU, {threads} thread{'' if threads == 1 else 's'}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return f"{name}, {str(dtype).removeprefix('torch.')}"
