"""Towers that are built and named like timm's, which need not be installed: attention by torch's own product."""

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers.modeling_outputs import BaseModelOutputWithPooling

WIDTH, HEADS = 32, 4


class Attention(nn.Module):
    """Of timm's transformers ([views, positions, features]) and, with ``image``, of its FastViT."""

    def __init__(self, *, image: bool = False) -> None:
        super().__init__()
        self.image, self.qkv, self.proj = image, nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x, rope=None):
        shape = x.shape
        if self.image:
            x = x.flatten(2).transpose(1, 2)
        parts = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = self.proj(scaled_dot_product_attention(*parts, dropout_p=0.0).transpose(1, 2).flatten(2))
        return x.transpose(1, 2).reshape(shape) if self.image else x


class Block(nn.Module):
    """Attention and an MLP, under timm's name for the attention."""

    def __init__(self, name: str, *, image: bool = False) -> None:
        super().__init__()
        self.name = name
        setattr(self, name, Attention(image=image))
        self.mlp = nn.Conv2d(WIDTH, WIDTH, 1) if image else nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        x = x + getattr(self, self.name)(x)
        return x + gelu(self.mlp(x))


class Transformer(nn.Module):
    """Like ``vit_pe_lang_large_patch14_448``."""

    def __init__(self, patch: int, patches: int, *, class_token: bool, depth: int = 3) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, WIDTH, patch, patch)
        self.patch_embed.patch_size = (patch, patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH)) if class_token else None
        self.pos_embed = nn.Parameter(torch.randn(1, patches + class_token, WIDTH))
        self.blocks = nn.ModuleList(Block("attn") for _ in range(depth))

    def forward_features(self, pixels):
        x = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x


class Stage(nn.Module):
    """Of ``fastvit_mci3``."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block("token_mixer", image=True))

    def forward(self, x):
        return self.blocks(x)


class Convolutional(nn.Module):
    """Like ``fastvit_mci3``, but that no convolution mixes neighbours."""

    def __init__(self, reduction: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, reduction, reduction)
        self.stages = nn.ModuleList(Stage() for _ in range(2))
        self.feature_info = [{"reduction": reduction}]

    def forward_features(self, pixels):
        x = self.stem(pixels)
        for stage in self.stages:
            x = stage(x)
        return x


class Wrapper(nn.Module):
    """In place of transformers' ``TimmWrapperModel``."""

    def __init__(self, timm_model: nn.Module) -> None:
        super().__init__()
        self.timm_model = timm_model

    def forward(self, pixel_values, return_dict=True, **_):
        return BaseModelOutputWithPooling(last_hidden_state=self.timm_model.forward_features(pixel_values))
