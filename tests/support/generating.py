"""Greedy generation with logits, and its comparison."""

from functools import partial

import torch

from support.tiny import IMAGE, VIDEO


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
