"""Features that a decoder adds to visual tokens after its first layers, reduced to the tokens that are left."""

from collections.abc import Sequence

from torch import Tensor

from vflowopt_hf.family import LayerResiduals
from vflowopt_hf.plans.merging import rows_of_stage
from vflowopt_hf.plans.rows import BatchRows, PlacedPlan, StageRows


def residuals_after(
    residuals: LayerResiduals, layer: int, table: BatchRows, plans: Sequence[PlacedPlan], stage: StageRows | None
) -> Tensor | None:
    """What to add to the output of a decoder layer.

    Args:
        residuals: of the forward.
        layer: index of the layer.
        table: the batch.
        plans: its units.
        stage: the stage that the layer belongs to; ``None`` before the first, where all rows are there.

    Returns:
        [batch, rows of the stage, features], 0 where nothing is added; ``None`` if the layer is followed by no
        addition.
    """
    if layer >= len(residuals.values):
        return None
    values = residuals.values[layer]
    rows = residuals.rows.to(values.device)
    # Scattered by a mask: how many rows it has need not be waited for.
    full = values.new_zeros(*rows.shape, values.shape[-1]).masked_scatter(rows[..., None], values)
    if stage is None:
        return full
    return rows_of_stage(full, table, plans, plans[0].plan.boundaries.index(stage.boundary), stage)
