"""Qwen2-VL for dense pictures."""

from __future__ import annotations

from typing import ClassVar

from ..dense.task import Dense
from ..recipes import DENSE, Phase
from ..task import Task
from .qwen2_vl import Qwen2VL


class DenseQwen2VL(Qwen2VL):
    """The architecture of ``reference-qwen2vl``, from whose weights it starts, with more words."""

    name: ClassVar[str] = "reference-dense"
    phases: ClassVar[tuple[Phase, ...]] = DENSE
    task: ClassVar[Task] = Dense()
    weights_from: ClassVar[str | None] = "reference-qwen2vl"
    decoder_from: ClassVar[str | None] = None
