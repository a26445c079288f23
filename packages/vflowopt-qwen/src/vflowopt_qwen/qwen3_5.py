"""Qwen3.5 and Qwen3.6, dense and mixture of experts: Qwen3-VL's layout without features inside the decoder.

Three of four decoder layers are gated delta nets: recurrent, with one state in place of keys. They take the rows that
are left like any other layer.
"""

from typing import ClassVar

from vflowopt_hf.pixels import PixelStatistics
from vflowopt_qwen.qwen2_vl import Qwen2VL


class Qwen35(Qwen2VL):
    """See the module's docstring."""

    name: ClassVar[str] = "qwen3.5"
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
