"""The adapters of this package, ready to use."""

from vflowopt_hf.adapter import TransformersAdapter
from vflowopt_hf.families.llava_onevision import LlavaOnevision

llava_onevision = TransformersAdapter(LlavaOnevision())
