"""The adapters of this package, ready to use."""

from vflowopt_hf.adapter import TransformersAdapter
from vflowopt_qwen.omni import Qwen3Omni, Qwen25Omni
from vflowopt_qwen.qwen2_5_vl import Qwen25VL
from vflowopt_qwen.qwen2_vl import Qwen2VL
from vflowopt_qwen.qwen3_5 import Qwen35
from vflowopt_qwen.qwen3_vl import Qwen3VL

qwen2_vl = TransformersAdapter(Qwen2VL())
qwen2_5_vl = TransformersAdapter(Qwen25VL())
qwen3_vl = TransformersAdapter(Qwen3VL())
qwen3_5 = TransformersAdapter(Qwen35())
qwen2_5_omni = TransformersAdapter(Qwen25Omni())
qwen3_omni = TransformersAdapter(Qwen3Omni())
