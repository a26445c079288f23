"""``generate`` while pruning: beams, sampling, conversations, and what must not work."""

import pytest
import torch
from torch import Tensor

from vflowopt.components.mass import LogMass
from vflowopt.errors import PruningStateError
from vflowopt.testing import require
from vflowopt_hf.testing.batches import Batch, Sample, with_extra_inputs
from vflowopt_hf.testing.generation import EXACT, generate, require_control, require_oracle_logits
from vflowopt_hf.testing.oracle import Oracle
from vflowopt_hf.testing.subject import Subject
from vflowopt_hf.upstream import cache_from, with_cache

MASS = LogMass(gamma=0.7)
"""The cache holds it, and so reorders, keeps and cuts it."""


def beam_search(subject: Subject) -> None:
    """The score of each best beam is the log-probability that the oracle gives its tokens: caches were reordered."""
    batch, steps = subject.batch(*subject.ragged()), 6
    with subject.prune(subject.strategy(batch, mass=MASS)) as pruning:
        output = generate(subject, batch.inputs, steps, num_beams=3, output_scores=True, length_penalty=1.0)
        plans = pruning.plan
    first = [index for index, unit in enumerate(pruning.report.units) if unit.sample % 3 == 0]  # beams share plans
    oracle = Oracle(subject, batch, [plans[index] for index in first])
    chosen = output.sequences[:, -steps:]
    expected = oracle.logits(output.sequences[:, :-1])[:, -steps:].log_softmax(dim=-1)
    expected = expected.gather(2, chosen[..., None])[..., 0].sum(dim=1) / steps
    difference = float((output.sequences_scores - expected).abs().max())
    require(
        difference <= EXACT or difference <= require_control(subject, batch),
        f"scores of beams are off by {difference:.2g}: the pruned cache was not reordered with the beams, or beams of "
        f"one sample do not share its plan",
    )


def sampling(subject: Subject) -> None:
    """Sampled continuations follow the oracle's logits, and the same seed draws the same."""
    batch = subject.batch(subject.image(0), subject.several())
    found = []
    with subject.prune(subject.strategy(batch, cell=None)) as pruning:
        for _ in range(2):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                found.append(generate(subject, batch.inputs, 6, do_sample=True, temperature=0.8))
        plans = pruning.plan
    require(torch.equal(found[0].sequences, found[1].sequences), "sampling twice with one seed draws different tokens")
    require_oracle_logits(Oracle(subject, batch, plans), found[0], "sampling")


def conversation(subject: Subject) -> None:
    """A second turn continues the pruned cache: it sees the first turn's retained tokens, and its own text."""
    batch = subject.batch(subject.image(-1))
    with subject.prune(subject.strategy(batch, mass=MASS)) as pruning:
        first = generate(subject, batch.inputs, 4)
        plans = pruning.plan
        cache = cache_from(first)
        turn = subject.batch(Sample(seed=3)).inputs["input_ids"]
        longer = torch.cat([first.sequences, turn], dim=1)
        text = with_extra_inputs(
            subject.case,
            subject.model,
            {"input_ids": longer, "attention_mask": torch.ones_like(longer)},
            batch.inputs["input_ids"].shape[1],
        )
        second = generate(subject, with_cache(subject.model, text, cache), 4)
    require_oracle_logits(Oracle(subject, batch, plans), second, "second turn")


def drafts(subject: Subject) -> None:
    """Drafts that are rejected leave no trace in the cache: prompt lookup finds what greedy decoding finds.

    Upstream refuses them where the cache cannot take tokens back, as recurrent states cannot, pruned or not.
    """
    batch, lookup = subject.batch(subject.several()), {"prompt_lookup_num_tokens": 2, "max_matching_ngram_size": 1}
    if not _takes_drafts_back(subject, batch):
        with subject.prune(subject.strategy(batch)), pytest.raises(ValueError, match=r"cropped|stateful"):
            generate(subject, batch.inputs, 8, **lookup)
        return
    with subject.prune(subject.strategy(batch, mass=MASS)) as pruning:
        output = generate(subject, batch.inputs, 8, **lookup)
        plans = pruning.plan
        expected = generate(subject, batch.inputs, 8)
    require_oracle_logits(Oracle(subject, batch, plans), output, "prompt lookup")
    require(torch.equal(output.sequences, expected.sequences), "prompt lookup finds other tokens than greedy decoding")


def outside_the_block(subject: Subject) -> None:
    """A pruned cache that is continued outside ``prune`` raises the typed error, and nothing is lost by trying."""
    batch = subject.batch(subject.image())
    strategy = subject.strategy(batch, (subject.num_layers // 2,))  # layers before it lack nothing
    with subject.prune(strategy):
        first = generate(subject, batch.inputs, 2)
        expected = generate(subject, batch.inputs, 4)
    answered = {"input_ids": first.sequences, "attention_mask": _seen(batch, first.sequences)}
    answered = with_extra_inputs(subject.case, subject.model, answered, batch.inputs["input_ids"].shape[1])
    longer = with_cache(subject.model, answered, cache_from(first))
    with pytest.raises(PruningStateError):
        generate(subject, dict(longer), 2)
    with subject.prune(strategy):
        found = generate(subject, dict(longer), 2)
    require(
        torch.equal(found.sequences, expected.sequences),
        "a pruned cache that was tried outside the block decodes other tokens inside it than before",
    )


def _takes_drafts_back(subject: Subject, batch: Batch) -> bool:
    """Whether the unpruned model's cache can."""
    with torch.no_grad():
        return bool(cache_from(subject.model(**batch.inputs, use_cache=True)).is_croppable)


def _seen(batch: Batch, sequences: Tensor) -> Tensor:
    """The attention mask of prompts and what follows them."""
    mask = batch.inputs["attention_mask"]
    return torch.cat([mask, mask.new_ones(len(mask), sequences.shape[1] - mask.shape[1])], dim=1)
