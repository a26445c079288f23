"""``generate`` on tiny models: nothing but text is generated, and everything is returned."""

from typing import Any

import torch
from torch import Tensor

from vflowopt.testing import fail, require
from vflowopt_hf.testing.batches import Batch, vocabulary
from vflowopt_hf.testing.oracle import Oracle
from vflowopt_hf.testing.subject import Distance, Subject

EXACT = 1e-5
"""How far logits may be from the oracle's, if upstream's own are not farther."""

NOISES = 4
"""How many times as far as upstream's own, where those are farther."""

CONTROL, CONTROL_STEPS = 1e-3, 20
"""How far upstream's own may be at most, and in how many steps it is measured."""


def generate(subject: Subject, inputs: dict[str, Any], steps: int, **options: Any) -> Any:
    """The output of ``model.generate``; ids below ``first_word``, placeholders among them, are not generated."""
    reserved = set(range(subject.case.first_word)) | set(subject.family.placeholder_ids(subject.model).values())
    with torch.no_grad():
        return subject.model.generate(
            **inputs,
            max_new_tokens=steps,
            suppress_tokens=sorted(token for token in reserved if token < vocabulary(subject.model)),
            return_dict_in_generate=True,
            output_logits=True,
            **{"do_sample": False, **options},
        )


def require_oracle_logits(oracle: Oracle, output: Any, what: str) -> None:
    """The logits of every generated token are those that the oracle finds for the same sequence."""
    expected, difference = _compared(oracle, output)
    require(expected.abs().max() > 0.1, f"the tiny model's logits are all below 0.1: scale its weights up ({what})")
    tolerance = EXACT if difference.max() <= EXACT else require_control(oracle.subject, oracle.batch)
    if not difference.max() <= tolerance:
        sample, step = (int(index) for index in (~(difference <= tolerance)).nonzero()[0])
        place = "the last prompt position" if step == 0 else f"decode step {step}"
        fail(
            f"{what}: logits at {place} of sample {sample} differ by {difference[sample, step]:.2g} from upstream's "
            f"full-length forward with the pruned tokens masked out; {tolerance:.2g} is allowed. Were positions "
            f"re-indexed, rows of another sample gathered, a mask taken from other columns, or tokens merged "
            f"differently?"
        )
    oracle.subject.distances.append(Distance(oracle.batch, float(difference.max()), tolerance))


def upstream_noise(subject: Subject, batch: Batch) -> float:
    """How far the unpruned model, generating outside any block, is from the oracle that hides nothing."""
    output = generate(subject, batch.inputs, CONTROL_STEPS)
    _, difference = _compared(Oracle(subject, batch, None), output)
    return float(difference.max())


def require_control(subject: Subject, batch: Batch) -> float:
    """What is allowed where upstream itself computes with more rounding than usual, as in recurrent layers.

    Returns:
        The tolerance: a few times upstream's noise.

    Raises:
        ConformanceError: the noise is so large that nothing can be said about pruning.
    """
    noise = upstream_noise(subject, batch)
    require(
        noise <= CONTROL,
        f"unpruned, upstream's own generation differs by {noise:.2g} from its full-length forward: that is no matter "
        f"of the adapter. Scale the tiny model's weights down, or see if Case.recurrent and extra_inputs are right",
    )
    return max(EXACT, NOISES * noise)


def _compared(oracle: Oracle, output: Any) -> tuple[Tensor, Tensor]:
    """The oracle's logits of the generated tokens, and how far those are that were found: [batch, steps]."""
    got = torch.stack(output.logits, dim=1)
    expected = oracle.logits(output.sequences[:, :-1])[:, -got.shape[1] :]
    return expected, (got - expected).abs().amax(dim=-1)
