"""Encoders read sizes on the host; the tower gets them where they were."""

import inspect

import torch
from torch import nn

from vflowopt_hf.vision.host_arguments import HostArguments


class Away(torch.Tensor):
    """As on a device: its copy on the host is another tensor."""

    def cpu(self):
        return torch.Tensor.cpu(self.as_subclass(torch.Tensor)).clone()


class Tower(nn.Module):
    def forward(self, pixels, sizes, *, scale):
        return pixels, sizes, scale


def encode(pixels, sizes, names=None):
    raise NotImplementedError


def test_sizes_are_on_the_host_but_for_the_tower():
    host, tower = HostArguments({"sizes"}), Tower()
    pixels, sizes = torch.ones(2).as_subclass(Away), torch.tensor([1, 2]).as_subclass(Away)
    for args, kwargs in (((pixels, sizes), {}), ((pixels,), {"sizes": sizes})):
        placed, named = host.placed(inspect.signature(encode), args, kwargs)
        own = dict(zip(("pixels", "sizes"), placed, strict=False)) | named
        assert own["pixels"] is pixels
        assert type(own["sizes"]) is torch.Tensor
        assert own["sizes"].tolist() == [1, 2]
        with host.kept_from(tower):
            got = tower(own["pixels"], own["sizes"], scale=1)
            assert got[0] is pixels
            assert got[1] is sizes
        assert "forward" not in vars(tower)
        assert tower(own["pixels"], own["sizes"], scale=1)[1] is own["sizes"]
