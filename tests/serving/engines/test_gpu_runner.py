"""vLLM's second model runner, its default on GPUs, does not start on a CPU; what it does about positions does."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("vllm")

from vllm.multimodal.inputs import PlaceholderRange
from vllm.v1.worker.gpu.model_states.mm_pruning import MultiModalPruner

from vflowopt_vllm.places import Places
from vflowopt_vllm.pruned_model import PrunedModel

pytestmark = pytest.mark.vllm

IMAGE, WIDTH = 4, 3
# Two words; tokens 1, 4 and 5 of a grid of 2 x 3; a word; tokens 0 and 3 of a row of 4; perhaps a word.
GRID = torch.tensor([[0, row, column] for row in range(2) for column in range(3)])
ROW = torch.arange(4)[:, None].expand(-1, 3)
KEPT = ((GRID, [1, 4, 5], 3), (ROW, [0, 3], 4))
EXPECTED = [
    [0, 1, 2, 2, 2, 5, 6, 9, 10],
    [0, 1, 2, 3, 3, 5, 6, 9, 10],
    [0, 1, 3, 3, 4, 5, 6, 9, 10],
]


class Model(PrunedModel):
    """What the runner asks of a model, without any layers."""

    config = SimpleNamespace(image_token_id=IMAGE, get_text_config=lambda: SimpleNamespace(hidden_size=WIDTH))

    def __init__(self) -> None:
        pass

    def extent(self, image):
        return image


@pytest.mark.parametrize("words_after", [1, 0])
@pytest.mark.parametrize("chunk", [9, 4, 3, 1])
def test_positions(chunk, words_after):
    model, ids = Model(), torch.tensor([7, 7, IMAGE, IMAGE, IMAGE, 7, IMAGE, IMAGE, *[7] * words_after])
    length = len(ids)
    features = [
        SimpleNamespace(mm_position=PlaceholderRange(offset=start, length=len(kept)), data=extent)
        for start, (_, kept, extent) in zip((2, 6), KEPT, strict=True)
    ]
    encoded = []
    for number, (offsets, kept, _) in enumerate(KEPT):
        states = torch.full((len(kept), WIDTH), float(number), dtype=torch.bfloat16)
        encoded.append(torch.cat([states, Places.of_image(offsets).as_columns()[kept].bfloat16()], dim=1))
    positions, delta = model.get_mrope_input_positions(ids.tolist(), features)
    state = SimpleNamespace(positions=positions.int(), delta=delta)
    rope = SimpleNamespace(
        read_prefill_positions=lambda _, count: state.positions[:, :count],
        update_prefill_positions=lambda _, found, own: vars(state).update(positions=found.int(), delta=own),
    )
    pruner = MultiModalPruner(model, rope, SimpleNamespace(mm_features={"request": features}), WIDTH)
    seen, cleaned = [], []
    for start in range(0, length, chunk):
        end = min(length, start + chunk)
        own = []
        for feature, states in zip(features, encoded, strict=True):
            first = feature.mm_position.offset
            own += [part] if len(part := states[max(start - first, 0) : max(end - first, 0)]) else []
        batch = SimpleNamespace(
            req_ids=["request"],
            idx_mapping_np=np.array([0]),
            prefill_len_np=np.array([length]),
            num_computed_prefill_tokens_np=np.array([start]),
            num_scheduled_tokens=np.array([end - start]),
        )
        if own:
            tokens = SimpleNamespace(all_token_ids=SimpleNamespace(gpu=ids[None]))
            cleaned += pruner.recompute(own, batch, tokens)
        seen.append(state.positions[:, start:end])
    assert torch.cat(seen, dim=1).tolist() == [axis[:length] for axis in EXPECTED]
    assert state.delta == 10 + words_after - length  # the first generated token stands at 10, or behind the last word
    assert torch.cat(cleaned)[:, 0].tolist() == [0, 0, 0, 1, 1]
