"""The adapters of this package, ready to use."""

from vflowopt_hf.adapter import TransformersAdapter
from vflowopt_qwen.qwen2_vl import Qwen2VL

qwen2_vl = TransformersAdapter(Qwen2VL())
