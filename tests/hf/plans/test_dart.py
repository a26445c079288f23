"""DART against a loop over upstream's own keys and hidden states; what stage scorers may look at is upstream's."""

import functools
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from oracles.greedy import similarities
from support.cases import gemma3, llava_onevision, qwen2_vl
from support.waiting import NoWaiting
from vflowopt import Progressive, Strategy
from vflowopt.errors import StrategyError
from vflowopt.methods import DART, FastV
from vflowopt.methods.dart import unlike_order
from vflowopt.strategies.reading import read_strategy
from vflowopt_hf.testing.generation import generate, require_oracle_logits
from vflowopt_hf.testing.oracle import Oracle
from vflowopt_hf.testing.probe import attention_function
from vflowopt_hf.testing.subject import Subject

CASES = {"onevision": llava_onevision.CASE, "qwen2-vl": qwen2_vl.CASE, "gemma3": gemma3.CASE}
LAYER = 2


@functools.cache
def subject(family):
    return Subject(CASES[family], "sdpa")


def observed(own, batch):
    """Keys and values of the layer before, and what enters the stage's first layer, of each sample."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    seen: dict[str, Any] = {}
    layers = own.family.decoder(own.model).layers

    def note(module, query, key, value, mask, **kwargs):
        seen["keys"], seen["values"] = key.detach(), value.detach()
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **kwargs)

    def enter(_module, args, kwargs):
        seen["states"] = (args[0] if args else kwargs["hidden_states"]).detach()

    handle = layers[LAYER].register_forward_pre_hook(enter, with_kwargs=True)
    with attention_function([layers[LAYER - 1].self_attn], note):
        generate(own, batch.inputs, 1)  # whose positions begin after the padding, as those of the answers
    handle.remove()
    return seen


def chosen(sizes, states, text_sizes, text_states, count):
    """Tokens that are retained, by the paper's loop; and how clear the choices were."""
    ordered = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    pivots = ordered[: min(4, count)]
    words = sorted(range(len(text_sizes)), key=lambda i: (-text_sizes[i], i))[:4]
    kept, margin = (
        list(pivots),
        min((sizes[a] - sizes[b] for a, b in itertools.pairwise(ordered[:6])), default=math.inf),
    )
    each = math.ceil((count - len(pivots)) / (len(pivots) + len(words)))
    like = similarities([*states, *text_states])
    for pivot in [*pivots, *(len(states) + word for word in words)]:
        left = sorted((i for i in range(len(states)) if i not in kept), key=lambda i: (like[pivot][i], i))
        take = min(each, count - len(kept))
        if 0 < take < len(left):
            margin = min(margin, like[pivot][left[take]] - like[pivot][left[take - 1]])
        kept += left[:take]
    return set(kept), margin


@pytest.mark.parametrize("family", CASES)
def test_what_is_kept_is_the_loops(family):
    own, scorer = subject(family), DART()
    batch = own.batch(own.image(1), own.several())
    strategy = Strategy(scorer=scorer, schedule=Progressive(stages=(LAYER,), retention=(0.6,)))
    with own.prune(strategy) as pruning:
        output = generate(own, batch.inputs, 3)
        plans = pruning.plan
    require_oracle_logits(Oracle(own, batch, plans), output, "dart")
    seen = observed(own, batch)
    for plan, placed in zip(plans, batch.placed, strict=True):
        tokens = np.flatnonzero(~plan.structural)
        visual = placed.rows[~plan.structural]
        present = np.flatnonzero(batch.inputs["attention_mask"][placed.sample].numpy())
        units = {int(row) for entry in batch.placed if entry.sample == placed.sample for row in entry.rows}
        texts = [row for row in present.tolist() if row > placed.rows[-1] and row not in units]
        keys = seen["keys"][placed.sample].double().abs().sum(dim=(0, 2)).numpy()
        states = seen["states"][placed.sample].double().numpy()
        count = plan.counts[0]
        expected, margin = chosen(keys[visual], states[visual], keys[texts], states[texts], min(count, len(tokens)))
        assert margin > 1e-6
        kept = {token for token in plan.kept[0].tolist() if not plan.structural[token]}
        everything = {int(tokens[token]) for token in expected}
        assert kept <= everything
        if not plan.structural.any():
            assert kept == everything


class Looking(FastV):
    """Notes what it is offered, and ranks as FastV does."""

    name: str = "looking"
    seen: Any = None

    def rescore_retaining(self, context, count):
        everywhere = np.concatenate([context.visual, context.text])
        self.seen.append(
            (
                count,
                context.left,
                everywhere,
                context.keys(everywhere),
                context.values(everywhere),
                context.states(everywhere),
            )
        )
        return self.rescore(context)


@pytest.mark.parametrize("family", CASES)
def test_keys_values_and_states_are_upstreams(family):
    own, scorer = subject(family), Looking(seen=[])
    batch = own.batch(own.image(1), own.several())
    with own.prune(Strategy(scorer=scorer, schedule=Progressive(stages=(LAYER,), retention=(0.6,)))):
        generate(own, batch.inputs, 1)
    seen = observed(own, batch)
    for (count, left, rows, keys, values, states), placed in zip(scorer.seen, batch.placed, strict=True):
        assert count == math.floor(0.6 * len(placed.rows) + 0.5)
        assert left.all()
        for name, actual in (("keys", keys), ("values", values)):
            expected = seen[name][placed.sample][:, rows].transpose(0, 1).flatten(1)
            torch.testing.assert_close(actual, expected.float(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(states, seen["states"][placed.sample][rows].float(), rtol=1e-5, atol=1e-6)


def test_a_second_stage_sees_what_the_first_has_left():
    own, scorer = subject("onevision"), Looking(seen=[])
    batch = own.batch(own.image(1), own.several())
    with own.prune(Strategy(scorer=scorer, schedule=Progressive(stages=(1, 3), retention=(0.7, 0.5)))) as pruning:
        with torch.no_grad():
            own.model(**batch.inputs)
        plans = pruning.plan
    second = scorer.seen[len(plans) :]
    assert len(second) == len(plans)
    for (count, left, *_), plan in zip(second, plans, strict=True):
        assert count == plan.counts[1]
        assert left.nonzero()[:, 0].tolist() == plan.kept[0].tolist()


def test_a_second_stage_of_dart_keeps_some_of_the_first():
    own = subject("qwen2-vl")
    batch = own.batch(own.image(1), own.several())
    strategy = Strategy(scorer=DART(), schedule=Progressive(stages=(1, 3), retention=(0.7, 0.5)))
    with own.prune(strategy) as pruning:
        output = generate(own, batch.inputs, 3)
        plans = pruning.plan
    require_oracle_logits(Oracle(own, batch, plans), output, "dart")
    assert [plan.counts for plan in plans] == [strategy.schedule.counts(plan.tokens) for plan in plans]


def test_choosing_waits_for_no_device():
    generator = torch.Generator().manual_seed(0)
    size, states, texts = (torch.rand(*shape, generator=generator) for shape in ((30,), (30, 5), (3, 5)))
    with NoWaiting():
        order = unlike_order(size, states, texts, 12, 4)
    assert sorted(order.tolist()) == list(range(30))


def test_on_the_command_line():
    strategy = read_strategy("dart@0.25,image_pivots=2")(28)
    assert strategy.scorer == DART(image_pivots=2)
    assert strategy.schedule.boundaries == (2,)
    assert strategy.average_retention(28) == pytest.approx(0.25)
    assert Strategy.parse(strategy.to_json()) == strategy
    with pytest.raises(StrategyError, match="image_pivots"):
        read_strategy("dart@0.25,image_pivots=0")
