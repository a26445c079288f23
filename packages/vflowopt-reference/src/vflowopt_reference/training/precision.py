"""bfloat16 where the processor multiplies in it, float32 where it would be emulated, many times slower."""

from __future__ import annotations

import torch


def reduced_precision() -> torch.autocast:
    """Autocast to bfloat16 on processors with AVX-512; elsewhere it does nothing."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.backends.cpu.get_cpu_capability().startswith("AVX512"))
