"""Layers have hooks while a forward needs them, and none of an eager decoding step that changes nothing in them."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import nn

from support.tiny import LAYERS, image_inputs, tiny_onevision
from vflowopt import Strategy, prune
from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.decoder.layer_hooks import LayerHooks

STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, cell=2.5)


def hooked(layers):
    return [len(layer._forward_pre_hooks) for layer in layers]


def test_they_are_on_while_somebody_holds_them():
    layers = [nn.Identity() for _ in range(3)]
    hooks = LayerHooks(layers, [lambda *_: None] * 3)
    with hooks.installed():
        assert hooked(layers) == [1, 1, 1]
        hooks.hold()
        hooks.hold()
        hooks.release()
        hooks.rest()
        assert hooked(layers) == [1, 1, 1]
        hooks.release()
        assert hooked(layers) == [1, 1, 1]
        hooks.rest()
        assert hooked(layers) == [1, 0, 0]
        hooks.hold()
        assert hooked(layers) == [1, 1, 1]
        hooks.release()
        hooks.require_on()  # a step is compiled
        hooks.rest()
        assert hooked(layers) == [1, 1, 1]
    assert hooked(layers) == [0, 0, 0]


def test_nothing_is_compiled_while_they_are_off():
    layers = [nn.Identity() for _ in range(2)]
    hooks = LayerHooks(layers, [lambda *_: None] * 2)
    with hooks.installed():
        hooks.rest()
        with pytest.raises(UnsupportedOperationError, match="run a prefill first, or compile the first step"):
            hooks.require_on()
    assert hooked(layers) == [0, 0]


def test_threads_that_hold_them_find_them_on():
    layers, together = [nn.Identity() for _ in range(3)], Barrier(4)
    hooks = LayerHooks(layers, [lambda *_: None] * 3)

    def work(number):
        together.wait(60)
        seen = []
        for _ in range(200):
            if number % 2:
                hooks.rest()
            else:
                hooks.hold()
                seen.append(hooked(layers))
                hooks.release()
        return seen

    with hooks.installed(), ThreadPoolExecutor(4) as pool:
        assert all(seen == [1, 1, 1] for found in pool.map(work, range(4)) for seen in found)


def steps(model, inputs, masks):
    """Logits of a step after the prompt for every mask, and how many layers had hooks after each."""
    layers, found, counts = model.model.language_model.layers, [], []
    with prune(model, STRATEGY), torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        counts.append(sum(hooked(layers)))
        for number, mask in enumerate(masks):
            step = {"input_ids": torch.tensor([[7 + number]]), "past_key_values": cache, "use_cache": True}
            found.append(model(**step, attention_mask=mask).logits)
            counts.append(sum(hooked(layers)))
    assert sum(hooked(layers)) == 0
    return torch.cat(found), counts


def test_a_step_that_needs_them_has_them_again(monkeypatch):
    """One that hides a token, after and before such as hide none."""
    model = tiny_onevision()
    inputs = image_inputs(model, [[(42, 42)]])
    length = inputs["input_ids"].shape[1]
    masks = [torch.ones(1, length + number, dtype=torch.long) for number in range(1, 6)]
    masks[2][0, 1] = 0
    found, counts = steps(model, inputs, masks)
    assert counts == [LAYERS, 1, 1, LAYERS, 1, 1]
    monkeypatch.setattr(LayerHooks, "rest", lambda _: None)
    expected, always = steps(model, inputs, masks)
    assert always == [LAYERS] * 6
    assert torch.equal(found, expected)
    masks[2][0, 1] = 1
    assert not torch.equal(steps(model, inputs, masks)[0][2], expected[2])
