"""Visual tokens that are made of k x k patches of a view: their places, and the mean over the patches of each.

Patches beyond the last whole token at a margin make none.
"""

from functools import partial

import numpy as np
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vflowopt import TokenLayout


def merged_layout(views: int, rows: int, columns: int, merge: int) -> TokenLayout:
    """Places of the tokens of views of so many rows and columns of patches: view by view, row by row."""
    return TokenLayout(np.indices((views, rows // merge, columns // merge)).reshape(3, -1).T)


def merge_rows(merge: int, rows: int, columns: int) -> partial[Tensor]:
    """``to_tokens`` where the patches of a view lie row by row, frame by frame: [1, frames * rows * columns] -> [N]."""
    return partial(_merge_rows, merge, rows, columns)


def merge_views(merge: int, rows: int, columns: int) -> partial[Tensor]:
    """``to_tokens`` where patches lie row by row in views that have tokens of their own: [views, patches] -> [N]."""
    return partial(_merge_views, merge, rows, columns)


def merge_blocks(merge: int) -> partial[Tensor]:
    """``to_tokens`` where the patches of a token follow each other, token by token: [views, patches] -> [N]."""
    return partial(_merge_blocks, merge)


def _merge_rows(merge: int, rows: int, columns: int, patch_map: Tensor) -> Tensor:
    return _merge_views(merge, rows, columns, patch_map.reshape(-1, rows, columns).mean(dim=0, keepdim=True))


def _merge_views(merge: int, rows: int, columns: int, patch_map: Tensor) -> Tensor:
    return avg_pool2d(patch_map.reshape(-1, rows, columns), merge).flatten()


def _merge_blocks(merge: int, patch_map: Tensor) -> Tensor:
    return patch_map.reshape(-1, merge * merge).mean(dim=1)
