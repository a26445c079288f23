"""Tokens of a resampler are worth what the patches are worth that they attend to."""

import pytest
import torch

from support.cases import idefics2
from vflowopt.errors import UnsupportedModelError
from vflowopt_hf.testing.probe import embed, recorded_weights
from vflowopt_hf.testing.subject import Subject
from vflowopt_hf.vision.resampling import resampled


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_maps_go_by_upstreams_own_weights_on_the_patches_that_are_no_padding(attention):
    own = Subject(idefics2.CASE, attention)
    batch = own.batch(own.several())
    with recorded_weights(own.family.resampler(own.model)) as weights, torch.no_grad():
        contexts = embed(own, batch).contexts
    assert len(contexts) == 3
    for placed, context in zip(batch.placed, contexts, strict=True):
        unit = placed.unit
        seen = weights[0][unit.views.start][:, :, unit.patch_order].double()
        shares = (seen / seen.sum(dim=-1, keepdim=True)).mean(dim=0)
        values = torch.rand(1, len(unit.patch_order), generator=torch.Generator().manual_seed(0))
        assert (context.to_tokens(values) - shares @ values[0].double()).abs().max() <= 1e-6
    sizes = [len(placed.unit.patch_order) for placed in batch.placed]
    assert len(set(sizes)) > 1  # padded to one length


def test_a_resampler_that_sees_other_views_is_refused():
    own = Subject(idefics2.CASE, "sdpa")
    units = own.family.units(own.model, "image", own.batch(own.image()).pixels)
    with pytest.raises(UnsupportedModelError, match="saw 0 views, not the 1"):
        resampled(units, [])
