"""The adapters of this package, ready to use."""

from vflowopt_hf.adapter import TransformersAdapter
from vflowopt_hf.families.gemma3 import Gemma3
from vflowopt_hf.families.idefics3 import Idefics3, SmolVLM
from vflowopt_hf.families.internvl import InternVL
from vflowopt_hf.families.llava import Llava
from vflowopt_hf.families.llava_next import LlavaNext
from vflowopt_hf.families.llava_next_video import LlavaNextVideo
from vflowopt_hf.families.llava_onevision import LlavaOnevision

llava = TransformersAdapter(Llava())
llava_next = TransformersAdapter(LlavaNext())
llava_next_video = TransformersAdapter(LlavaNextVideo())
llava_onevision = TransformersAdapter(LlavaOnevision())
gemma3 = TransformersAdapter(Gemma3())
internvl = TransformersAdapter(InternVL())
idefics3 = TransformersAdapter(Idefics3())
smolvlm = TransformersAdapter(SmolVLM())
