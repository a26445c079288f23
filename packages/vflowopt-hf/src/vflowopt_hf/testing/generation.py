"""``generate`` on tiny models: nothing but text is generated, and everything is returned."""

from typing import Any

import torch

from vflowopt.testing import fail, require
from vflowopt_hf.testing.batches import vocabulary
from vflowopt_hf.testing.oracle import Oracle
from vflowopt_hf.testing.subject import Subject

EXACT = 1e-5


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
    got = torch.stack(output.logits, dim=1)
    expected = oracle.logits(output.sequences[:, :-1])[:, -got.shape[1] :]
    require(expected.abs().max() > 0.1, f"the tiny model's logits are all below 0.1: scale its weights up ({what})")
    difference = (got - expected).abs().amax(dim=-1)
    if not difference.max() <= EXACT:
        sample, step = (int(index) for index in (difference > EXACT).nonzero()[0])
        place = "the last prompt position" if step == 0 else f"decode step {step}"
        fail(
            f"{what}: logits at {place} of sample {sample} differ by {difference[sample, step]:.2g} from upstream's "
            f"full-length forward with the pruned tokens masked out. Were positions re-indexed, rows of another sample "
            f"gathered, a mask taken from other columns, or tokens merged differently?"
        )
