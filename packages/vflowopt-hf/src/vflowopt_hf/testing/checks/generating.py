"""``generate`` while pruning: beams, sampling, conversations, and what must not work."""

import pytest
import torch

from vflowopt.errors import PruningStateError
from vflowopt.testing import require
from vflowopt_hf.testing.batches import Sample, with_extra_inputs
from vflowopt_hf.testing.generation import EXACT, generate, require_oracle_logits
from vflowopt_hf.testing.oracle import Oracle
from vflowopt_hf.testing.subject import Subject
from vflowopt_hf.upstream import cache_from, with_cache


def beam_search(subject: Subject) -> None:
    """The score of each best beam is the log-probability that the oracle gives its tokens: caches were reordered."""
    batch, steps = subject.batch(*subject.ragged()), 6
    with subject.prune(subject.strategy(batch)) as pruning:
        output = generate(subject, batch.inputs, steps, num_beams=3, output_scores=True, length_penalty=1.0)
        plans = pruning.plan
    first = [index for index, unit in enumerate(pruning.report.units) if unit.sample % 3 == 0]  # beams share plans
    oracle = Oracle(subject, batch, [plans[index] for index in first])
    chosen = output.sequences[:, -steps:]
    expected = oracle.logits(output.sequences[:, :-1])[:, -steps:].log_softmax(dim=-1)
    expected = expected.gather(2, chosen[..., None])[..., 0].sum(dim=1) / steps
    difference = float((output.sequences_scores - expected).abs().max())
    require(
        difference <= EXACT,
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
    with subject.prune(subject.strategy(batch)) as pruning:
        first = generate(subject, batch.inputs, 4)
        plans = pruning.plan
        cache = cache_from(first)
        turn = subject.batch(Sample(seed=3)).inputs["input_ids"]
        longer = torch.cat([first.sequences, turn], dim=1)
        text = with_extra_inputs(
            subject.case, subject.model, {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
        )
        second = generate(subject, with_cache(subject.model, text, cache), 4)
    require_oracle_logits(Oracle(subject, batch, plans), second, "second turn")


def outside_the_block(subject: Subject) -> None:
    """A pruned cache that is continued outside ``prune`` raises the typed error, and can still be continued inside."""
    batch = subject.batch(subject.image())
    strategy = subject.strategy(batch)
    with subject.prune(strategy), torch.no_grad():
        cache = cache_from(subject.model(**batch.inputs, use_cache=True))
    step = with_cache(subject.model, {"input_ids": torch.tensor([[subject.case.first_word]])}, cache)
    with torch.no_grad():
        with pytest.raises(PruningStateError):
            subject.model(**step)
        with subject.prune(strategy):
            subject.model(**step)
