"""From the vision tower's output to the last decoder layer, a pruned prefill makes the host wait for nothing."""

import functools
import importlib
from collections import Counter
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch

from support.cases import BY_DECODER
from support.waiting import Waits
from vflowopt import Strategy
from vflowopt.components.schedule import Progressive
from vflowopt.methods import PyramidDrop
from vflowopt_hf.hooks.installing import replaced
from vflowopt_hf.testing.subject import Subject
from vflowopt_hf.vision.graphed_tower import tower_of


def subject(family):
    return Subject(importlib.import_module(f"support.cases.{family}").CASE, "sdpa")


@contextmanager
def recording(own, waits):
    """Recording runs from each return of upstream's encoders to the last decoder layer."""
    backbone, decoder = own.family.backbone(own.model), own.family.decoder(own.model)
    with ExitStack() as stack:
        for name in ("get_image_features", "get_video_features"):
            if hasattr(backbone, name):
                setattr(backbone, name, _recorded_after(getattr(backbone, name), waits))
                stack.callback(delattr, backbone, name)
        stack.enter_context(_quiet_masks(backbone, waits))
        handle = decoder.layers[-1].register_forward_hook(lambda *_: setattr(waits, "recording", False))
        stack.callback(handle.remove)
        yield


@contextmanager
def _quiet_masks(backbone, waits):
    """Nor does what is computed on the host wait, of token ids that are there."""
    with ExitStack() as stack:
        for name in ("get_placeholder_mask", "get_rope_index"):
            if hasattr(backbone, name):
                stack.enter_context(replaced(backbone, name, waits.quiet_on_host(getattr(backbone, name))))
        yield


def _recorded_after(encode, waits):
    @functools.wraps(encode)
    def call(*args, **kwargs):
        waits.recording = False
        output = encode(*args, **kwargs)
        waits.recording = True
        return output

    return call


def waits_of(own, inputs, strategy=None):
    waits = Waits()
    with recording(own, waits), ExitStack() as stack, torch.no_grad():
        session = stack.enter_context(own.prune(strategy)) if strategy else None
        with waits:
            own.model(**inputs)
        assert session is None or session.report.retention < 0.9
    return Counter(waits.found)


@pytest.mark.parametrize("family", BY_DECODER)
def test_pruning_adds_nothing_to_wait_for(family):
    """What upstream waits for by itself, for example to check placeholders, it waits for without pruning too."""
    own = subject(family)
    batches = [own.batch(own.several(), own.image(0))]
    if own.case.video is not None:
        batches.append(own.batch(own.video()))
    for batch in batches:
        upstream = waits_of(own, batch.inputs)
        ours = waits_of(own, batch.inputs, own.strategy(batch))
        assert not ours - upstream


@pytest.mark.parametrize(
    "family", ["llava", "llava_next", "llava_onevision", "vipllava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
)
def test_nothing_waits_for_the_tower_but_who_wants_the_logits(family):
    """From the tower's output to the logits, what upstream waits for is answered from the host as well."""
    own = subject(family)
    batch, waits = own.batch(own.image(0)), Waits()
    backbone = own.family.backbone(own.model)
    tower = tower_of(backbone, own.family.vision_attention(own.model))
    begin = tower.register_forward_hook(lambda *_: setattr(waits, "recording", True))
    end = own.model.lm_head.register_forward_hook(lambda *_: setattr(waits, "recording", False))
    for strategy in (None, own.strategy(batch)):
        waits.found.clear()
        with ExitStack() as stack, torch.no_grad(), waits:
            stack.enter_context(_quiet_masks(backbone, waits))
            if strategy is not None:
                stack.enter_context(own.prune(strategy))
                own.model(**batch.inputs)  # what depends on the layout is copied to the device once
                waits.found.clear()
            own.model(**batch.inputs)
        assert (waits.found == []) == (strategy is not None)
    begin.remove()
    end.remove()


def test_nor_do_stages_that_the_decoder_decides():
    own = subject("qwen3_vl")
    batch = own.batch(own.several(), own.image(0))
    strategy = Strategy(scorer=PyramidDrop(), schedule=Progressive(stages=(1, 3), retention=(0.5, 0.5)))
    assert not waits_of(own, batch.inputs, strategy) - waits_of(own, batch.inputs)


@pytest.mark.parametrize(
    ("wait", "what"),
    [
        (lambda tensor: tensor.sum().item(), "_local_scalar_dense"),
        (lambda tensor: bool(tensor.any()), "_local_scalar_dense"),
        (lambda tensor: tensor.tolist(), "tolist"),
        (lambda tensor: tensor.cpu(), "cpu"),
        (lambda tensor: np.asarray(tensor), "__array__"),
        (lambda tensor: tensor.nonzero(), "nonzero"),
        (lambda tensor: tensor[tensor > 1], "index by a boolean mask"),
        (lambda tensor: tensor.unique(), "_unique2"),
        (lambda tensor: torch.equal(tensor, tensor), "equal"),
        (lambda tensor: tensor.repeat_interleave(tensor), "repeat_interleave"),
        (lambda tensor: torch.from_numpy(np.ones(2)).to(tensor.device), "blocking copy to the device"),
        (lambda tensor: torch.tensor([1.0, 2.0], device=tensor.device), "blocking copy to the device"),
    ],
)
def test_the_recorder_finds(wait, what):
    tensor = torch.tensor([1, 2, 3])
    with Waits() as waits:
        waits.recording = True
        wait(tensor)
    assert what in waits.found


def test_the_recorder_lets_pass_what_does_not_wait():
    tensor = torch.tensor([1, 2, 3])
    with Waits() as waits:
        copied = tensor.cpu()
        waits.recording = True
        copied.numpy().tolist()
        copied[1:].cpu().tolist()
        torch.from_numpy(np.ones(2)).to(tensor.device, non_blocking=True)
        tensor[torch.arange(2)].masked_fill(tensor[:2] > 1, 0).argsort().cumsum(0)
    assert waits.found == []


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llava_onevision", "qwen3_vl", "gemma3"])
def test_the_decoder_runs_in_sync_debug_mode(family):
    """Prompts without padding: upstream reads its padding mask."""
    own = subject(family)
    batch = own.batch(own.image(0))
    inputs = {name: value.to("cuda") for name, value in batch.inputs.items() if name != "attention_mask"}
    own.model.to("cuda")
    decoder = own.family.decoder(own.model)
    with own.prune(own.strategy(batch)) as session, torch.no_grad(), ExitStack() as stack:
        own.model(**inputs)  # kernels are loaded at first use
        before = decoder.register_forward_pre_hook(lambda *_: torch.cuda.set_sync_debug_mode("error"), prepend=True)
        after = decoder.layers[-1].register_forward_hook(lambda *_: torch.cuda.set_sync_debug_mode("default"))
        stack.callback(torch.cuda.set_sync_debug_mode, "default")
        stack.callback(before.remove)
        stack.callback(after.remove)
        own.model(**inputs)
        assert session.report.retention < 0.9
