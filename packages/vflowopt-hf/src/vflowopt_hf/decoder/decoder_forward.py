"""The state of one forward of a decoder that is being pruned."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vflowopt_hf.decoder.layer_views import Views
from vflowopt_hf.decoder.recurrent_cache import PrunedRecurrentLayer
from vflowopt_hf.decoder.shared_keys import ReusedKeys
from vflowopt_hf.decoder.slots import Permit
from vflowopt_hf.family import LayerResiduals
from vflowopt_hf.hooks.running import Forward
from vflowopt_hf.plans.decoder_attention import AttentionCall
from vflowopt_hf.plans.stage_plan import StagePlan


@dataclass(eq=False)
class DecoderForward(Forward):
    """State of a decoder forward that is running.

    Attributes:
        views: what layers see.
        plan: what the forward prunes; ``None`` if nothing, as in every decoding step.
        residuals: what the decoder would have added after its first layers.
        entered: embeddings [batch, queries, features], if the decoder got such.
        cache: the KV cache, if the forward prunes and there is one.
        attention: of the layer by whose attention the next stage is decided, once that layer has run.
        rotary: rotary tables that the layer which runs was called with, for all rows of the forward, if it prunes.
        bias: float32 [batch, slots], what the layer that runs adds to the attention logits of its keys, where its mask
            does not hold it; ``None`` if nothing.
        states: layers of the cache that are open for this forward.
        reused: the keys that later layers reuse.
        last: how many rows at the end are asked for; 0 for all.
        holds: whether it holds the hooks of all layers.
        permit: what the layers of the cache share, where they need no hooks: nothing changes in any of them.
    """

    views: Views
    reused: ReusedKeys
    plan: StagePlan | None = None
    residuals: LayerResiduals | None = None
    entered: Tensor | None = None
    cache: Any = None
    attention: AttentionCall | None = None
    rotary: Any = None
    bias: Tensor | None = None
    states: list[PrunedRecurrentLayer] = field(default_factory=list)
    last: int = 0
    holds: bool = False
    permit: Permit | None = None
