"""What visual tokens receive in every decoder layer of the unpruned model, for recipes that are fitted offline."""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from vflowopt.adapter import Inputs
from vflowopt.arrays import HostInts, to_numpy
from vflowopt.components.stage_scoring import ReceivedAttention
from vflowopt.errors import UnsupportedModelError
from vflowopt.methods.fitprune import Floats, received
from vflowopt.methods.sparsevlm_adaptive import chosen_texts, rank
from vflowopt_hf.decoder.layer_kinds import has_keys
from vflowopt_hf.family import Family
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.plans.decoder_attention import AttentionCall, attention_module, observe_attention
from vflowopt_hf.plans.decoder_context import DecoderContext
from vflowopt_hf.plans.rows import BatchRows
from vflowopt_hf.search.evaluator import HiddenStateEvaluator
from vflowopt_hf.search.sample import Sample


def received_attention(
    family: Family, model: Any, samples: Iterable[Inputs], statistics: PixelStatistics, *, ranks: bool = False
) -> list[ReceivedAttention]:
    """Attention received by the visual tokens of every unit of some samples, see :mod:`vflowopt.methods.fitprune`.

    Costs two prefills per sample, one of them with all attention computed twice.

    Args:
        family: of the model.
        model: the model; not changed.
        samples: processor outputs.
        statistics: pixel normalisation to invert for patch entropy.
        ranks: whether to find ranks too, see :mod:`vflowopt.methods.sparsevlm_adaptive`: one singular value
            decomposition per layer and unit, on the host.

    Raises:
        InputError: no samples, or one without visual tokens or of another batch size than 1.
        PruningStateError: the model is being pruned.
        UnsupportedModelError: some decoder layers have no attention.
    """
    found = []
    for sample in HiddenStateEvaluator(family, model, samples, "last-token", statistics).samples:
        found.extend(_of_sample(family, model, sample, ranks))
    return found


def _of_sample(family: Family, model: Any, sample: Sample, ranks: bool) -> list[ReceivedAttention]:
    decoder, units = family.decoder(model), sample.prefill.units
    table = BatchRows([(unit.sample, unit.rows) for unit in units], sample.prefill.present, sample.target.device)
    own: list[list[Floats]] = [[] for _ in units]
    cross: list[list[Floats]] = [[] for _ in units]
    rank_of: list[list[int]] = [[] for _ in units]
    chosen: dict[int, HostInts] = {}  # of each unit, the same in all layers

    def note(call: AttentionCall) -> None:
        for number, unit in enumerate(units):
            context = DecoderContext(unit.context.layout, table, number, call, sample.call["inputs_embeds"])
            for kind, values in zip((own, cross), received(context), strict=True):
                kind[number].append(to_numpy(values).astype(np.float64))
            if ranks:
                if number not in chosen:
                    chosen[number] = chosen_texts(context)
                rank_of[number].append(rank(context, chosen[number]))

    config: Any = decoder.config
    for index in range(len(decoder.layers)):  # type: ignore[arg-type]
        if not has_keys(config, index):
            raise UnsupportedModelError(
                f"what visual tokens receive in every layer is asked for, but decoder layer {index} has no attention "
                f"({config.layer_types[index]}); use a method that is not fitted to the attention of all layers"
            )
    with ExitStack() as stack, torch.no_grad():
        for layer in decoder.layers:  # type: ignore[union-attr]
            stack.enter_context(observe_attention(attention_module(layer), note))
        decoder(**sample.call)
    return [
        ReceivedAttention(
            own=np.stack(own[number]),
            cross=np.stack(cross[number]),
            structural=unit.context.layout.structural,
            ranks=np.array(rank_of[number], dtype=np.int64) if ranks else None,
        )
        for number, unit in enumerate(units)
    ]
