"""Which rows of the decoder's input are visual, and how many."""

import torch

from vflowopt.testing import ConformanceError, fail, require
from vflowopt_hf.testing.batches import Batch, encoder_arguments, units_of, vocabulary, with_extra_inputs
from vflowopt_hf.testing.probe import embed, other_pixels
from vflowopt_hf.testing.subject import Subject


def counts(subject: Subject) -> None:
    """``Family.units`` finds as many units and visual tokens as upstream makes features, for images and videos."""
    for batch in subject.geometries():
        for modality in {placed.modality for placed in batch.placed}:
            units = units_of(subject.case, subject.model, modality, batch.pixels)
            _require_told(subject, batch, modality, len(units))
            _compare(subject, batch, modality, [unit.layout.tokens for unit in units])


def _require_told(subject: Subject, batch: Batch, modality: str, parts: int) -> None:
    """The prompt tells the units that it was made of, where ``Family.units`` gives parts of them."""
    own = [entry for entry in batch.placed if entry.modality == modality]
    for sample, ids in enumerate(batch.inputs["input_ids"].numpy()):
        told = subject.family.tokens_per_unit(subject.model, modality, ids)
        written = [len(entry.rows) for entry in own if entry.sample == sample]
        require(
            told is not None or parts == len(own),
            f"Family.units gives {parts} parts of {len(own)} {modality}s, but Family.tokens_per_unit does not say "
            f"which of them belong together",
        )
        require(
            told is None or list(told) == written,
            f"sample {sample} holds {modality}s of {written} visual tokens, but Family.tokens_per_unit reads {told}",
        )


def _compare(subject: Subject, batch: Batch, modality: str, said: list[int]) -> None:
    encoder = getattr(subject.family.backbone(subject.model), f"get_{modality}_features")
    arguments = encoder_arguments(subject.case, subject.model, modality, batch.pixels)
    with torch.no_grad():
        features = encoder(**arguments, return_dict=True).pooler_output
    made = [feature.shape[:-1].numel() for feature in features]
    agree = made == said if len(made) == len(said) else sum(made) == sum(said)
    require(
        agree,
        f"upstream makes {made} visual tokens ({sum(made)} together) of {len(said)} {modality}s, but the layouts of "
        f"Family.units hold {said} ({sum(said)})",
    )


def visual_tokens(subject: Subject) -> None:
    """``Family.placeholder_ids`` marks exactly the rows of the decoder's input where upstream puts features."""
    placeholders = subject.family.placeholder_ids(subject.model)
    for batch in subject.geometries():
        try:
            embedded = embed(subject, batch).embeddings
        except ConformanceError as error:
            if error.__cause__ is None:  # upstream has not refused anything
                raise
            fail(f"{error}. {_accepted(subject, batch)}", error)
        with torch.no_grad():
            moved = (embed(subject, batch, other_pixels(batch)).embeddings != embedded).any(dim=-1)
            ids = batch.inputs["input_ids"]
            replaced = moved | (embedded != subject.model.get_input_embeddings()(ids)).any(dim=-1)
        marked = torch.isin(ids, torch.tensor(list(placeholders.values())))
        for wrong, what in (
            (moved & ~marked, "moves with the pixels, but its id {id} is none of Family.placeholder_ids {known}"),
            (marked & ~replaced, "has the placeholder id {id}, but upstream leaves it as text"),
        ):
            for sample, row in wrong.nonzero().tolist()[:1]:
                said = what.format(id=int(ids[sample, row]), known=dict(placeholders))
                fail(f"row {row} of sample {sample} of the decoder's input {said}")


def _accepted(subject: Subject, batch: Batch) -> str:
    """The id that upstream would have accepted, found by trying all of them."""
    ids = batch.inputs["input_ids"]
    modalities = {placed.modality for placed in batch.placed}
    for modality in modalities:
        wrong = subject.family.placeholder_ids(subject.model)[modality]
        for right in range(vocabulary(subject.model)):
            other = torch.where(ids == wrong, right, ids)
            changed = {**batch.inputs, "input_ids": other}
            changed = with_extra_inputs(subject.case, subject.model, changed)
            try:
                with torch.no_grad():
                    subject.model(**changed, use_cache=False)
            except Exception:
                continue
            return f"Upstream puts {modality} features where the id is {right}, not {wrong}: correct placeholder_ids"
    return (
        f"No other id is accepted in their place either: correct the layouts of {', '.join(sorted(modalities))} units"
    )
