"""Greedy generation with logits, and its comparison."""

from functools import partial

import torch
from transformers import StaticCache

from support.tiny import IMAGE, VIDEO
from vflowopt_hf.upstream import cache_argument


def generate(model, inputs, steps, **options):
    """Placeholders are kept from being generated: they would be taken for images."""
    with torch.no_grad():
        return model.generate(
            **inputs,
            max_new_tokens=steps,
            suppress_tokens=[IMAGE, VIDEO],
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **options,
        )


def on_static_caches(model, block, batches):
    """Of each batch the tokens that are generated inside a block, and the static cache that they leave behind."""
    found = []
    with block, torch.no_grad():
        for inputs in batches:
            cache = StaticCache(config=model.config, max_cache_len=inputs["input_ids"].shape[1] + 6)
            own = {cache_argument(model): cache}
            found.append((model.generate(**inputs, max_new_tokens=5, do_sample=False, **own), cache))
    return found


def generating(steps):
    """:func:`generate` with another number of steps by default."""
    return lambda model, inputs, own=steps, **options: generate(model, inputs, own, **options)


def assert_same(got, expected, within):
    """The same tokens, and logits that differ by no more than a share of the largest: sums may run over more slots."""
    assert torch.equal(got.sequences, expected.sequences)
    logits = torch.stack(expected.logits)
    assert (torch.stack(got.logits) - logits).abs().max() <= within * logits.abs().max()


def same(within):
    """:func:`assert_same` with a bound."""
    return partial(assert_same, within=within)
