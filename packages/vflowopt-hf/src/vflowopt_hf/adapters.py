"""The adapters of this package, ready to use."""

from vflowopt_hf.adapter import TransformersAdapter
from vflowopt_hf.families.aya_vision import AyaVision
from vflowopt_hf.families.cohere2_vision import Cohere2Vision
from vflowopt_hf.families.fast_vlm import FastVLM
from vflowopt_hf.families.gemma3 import Gemma3
from vflowopt_hf.families.gemma4 import Gemma4
from vflowopt_hf.families.glm4v import Glm4V
from vflowopt_hf.families.idefics2 import Idefics2
from vflowopt_hf.families.idefics3 import Idefics3, SmolVLM
from vflowopt_hf.families.internvl import InternVL, QianfanOCR
from vflowopt_hf.families.kimi_k25 import KimiK25
from vflowopt_hf.families.lfm2_vl import Lfm2VL
from vflowopt_hf.families.llava import Llava
from vflowopt_hf.families.llava_next import LlavaNext
from vflowopt_hf.families.llava_next_video import LlavaNextVideo
from vflowopt_hf.families.llava_onevision import LlavaOnevision
from vflowopt_hf.families.minicpm_v4_6 import MiniCPMV46
from vflowopt_hf.families.mistral3 import LightOnOCR, Mistral3
from vflowopt_hf.families.molmo2 import Molmo2
from vflowopt_hf.families.nemotron_h import NemotronHOmni
from vflowopt_hf.families.ovis2 import Ovis2
from vflowopt_hf.families.paddleocr_vl import PaddleOCRVL
from vflowopt_hf.families.paligemma import PaliGemma
from vflowopt_hf.families.perception_lm import PerceptionLM
from vflowopt_hf.families.vipllava import VipLlava

llava = TransformersAdapter(Llava())
llava_next = TransformersAdapter(LlavaNext())
llava_next_video = TransformersAdapter(LlavaNextVideo())
llava_onevision = TransformersAdapter(LlavaOnevision())
gemma3 = TransformersAdapter(Gemma3())
gemma4 = TransformersAdapter(Gemma4())
internvl = TransformersAdapter(InternVL())
idefics2 = TransformersAdapter(Idefics2())
idefics3 = TransformersAdapter(Idefics3())
qianfan_ocr = TransformersAdapter(QianfanOCR())
smolvlm = TransformersAdapter(SmolVLM())
mistral3 = TransformersAdapter(Mistral3())
lighton_ocr = TransformersAdapter(LightOnOCR())
glm4v = TransformersAdapter(Glm4V())
paddleocr_vl = TransformersAdapter(PaddleOCRVL())
kimi_k25 = TransformersAdapter(KimiK25())
paligemma = TransformersAdapter(PaliGemma())
aya_vision = TransformersAdapter(AyaVision())
cohere2_vision = TransformersAdapter(Cohere2Vision())
vipllava = TransformersAdapter(VipLlava())
molmo2 = TransformersAdapter(Molmo2())
nemotron_h = TransformersAdapter(NemotronHOmni())
ovis2 = TransformersAdapter(Ovis2())
lfm2_vl = TransformersAdapter(Lfm2VL())
perception_lm = TransformersAdapter(PerceptionLM())
fast_vlm = TransformersAdapter(FastVLM())
minicpm_v4_6 = TransformersAdapter(MiniCPMV46())
