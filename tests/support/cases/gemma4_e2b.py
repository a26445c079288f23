"""Gemma 4 E2B for the conformance kit: layers take inputs of their own, the last ones reuse keys of earlier ones."""

from dataclasses import replace

from support.cases.gemma4 import CASE as GEMMA4
from support.cases.gemma4 import VOCABULARY, tiny_gemma4

SMALL = {
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "num_kv_shared_layers": 3,
    "use_double_wide_mlp": True,
    "use_bidirectional_attention": None,
    "attention_k_eq_v": False,
    "num_global_key_value_heads": None,
}


def tiny_gemma4_e2b(attention: str = "sdpa"):
    """Stages begin before, between and behind the layers whose keys are reused: 1 and 2 of 6."""
    return tiny_gemma4(attention, **SMALL)


CASE = replace(GEMMA4, model=tiny_gemma4_e2b, name="gemma4-e2b")
