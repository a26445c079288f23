"""What differs between the reference models: everything else of this package is shared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..geometry import PATCH, Canvas
from ..recipes import Phase
from ..scenes import Scenes
from ..task import Task
from ..vocabulary import PAD, TURN_END, VOCABULARY

HEAD: int = 2
"""Text tokens before the image: turn start, "user"."""

_DECODER: Mapping[str, Any] = {
    "hidden_size": 160,
    "num_hidden_layers": 9,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 448,
    "max_position_embeddings": 16384,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": VOCABULARY[TURN_END],
    "pad_token_id": VOCABULARY[PAD],
}


class Architecture(ABC):
    """A stock architecture of transformers, small: how to build, feed and train it. Stateless.

    Sizes are ``(height, width)`` in pixels. A *cell* is the square of pixels behind one vector that the projector puts
    out: a patch, or the patches that are merged into one visual token.
    """

    name: ClassVar[str]
    """Of the reference model."""
    model_type: ClassVar[str]
    """As in ``config.json``."""
    model_class: ClassVar[Any]
    """Class of transformers."""
    image_processor_class: ClassVar[Any]
    """PIL image processor of transformers."""
    mean: ClassVar[tuple[float, float, float]]
    std: ClassVar[tuple[float, float, float]]
    cell: ClassVar[int] = PATCH
    """Side of a cell in pixels."""
    phases: ClassVar[tuple[Phase, ...]]
    """The recipe of the shipped weights."""
    task: ClassVar[Task] = Scenes()
    """What it is trained for."""
    weights_from: ClassVar[str | None] = None
    """The reference model whose weights the training starts from."""
    decoder_from: ClassVar[str | None] = None
    """The reference model whose decoder the training starts from; by default from nothing."""

    @abstractmethod
    def configuration(self) -> Any:
        """Of the model."""

    def decoder(self) -> dict[str, Any]:
        """The decoder's configuration: 9 layers of 160, tied embeddings."""
        return {**_DECODER, "vocab_size": len(self.task.vocabulary)}

    def build(self, seed: int = 0) -> Any:
        """An untrained model in float32; the process's random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.model_class(self.configuration())

    @abstractmethod
    def processor_files(self) -> Mapping[str, Mapping[str, Any]]:
        """Name and content of the processor's configuration files."""

    def normalise(self, pixels: NDArray[np.uint8]) -> Tensor:
        """``[..., height, width, 3]`` bytes to ``[..., 3, height, width]``, around 0, as the image processor does."""
        mean, std = (torch.tensor(values)[:, None, None] * 255 for values in (self.mean, self.std))
        return ((torch.from_numpy(np.array(pixels)).movedim(-1, -3).float() - mean) / std).contiguous()

    def translated(self, found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:  # noqa: ARG002
        """The state of a model of :attr:`weights_from` in this architecture's form.

        Args:
            found: state of the other model.
            own: state of an untrained one, for what the other does not have.
        """
        return found

    # Use: from images and clips to numbers of visual tokens.

    @abstractmethod
    def image_lengths(self, pixels: Mapping[str, Any]) -> list[int]:
        """Visual tokens of each image that the image processor returned."""

    @abstractmethod
    def clips(self, videos: Sequence[Any]) -> tuple[Mapping[str, Tensor], list[int]]:
        """Model inputs of clips, and the visual tokens of each.

        Raises:
            ValueError: the architecture takes no clips, or not these.
        """

    def further_inputs(self, input_ids: Tensor) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Other inputs that the model's forward wants."""
        return {}

    # Training: scenes on one canvas, all in one go.

    @abstractmethod
    def views(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What the tower sees of an image ``[height, width, 3]``: ``[V, h, w, 3]``."""

    @abstractmethod
    def planes(self, plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A map of object numbers ``[height, width]`` cut like the image: ``[V, h, w]``."""

    @abstractmethod
    def prepare_tower(self, model: Any, weight: Tensor, mean: Tensor) -> None:
        """Let the patch embedding start as ``weight @ (patch - mean)``, in place.

        Args:
            model: untrained.
            weight: ``[width, 3 * PATCH * PATCH]``, over channel, row and column.
            mean: ``[3 * PATCH * PATCH]``.
        """

    @abstractmethod
    def cell_vectors(self, model: Any, pixels: Tensor) -> Tensor:
        """Tower and projector before packing: ``[views, 3, h, w]`` to ``[views, cells, width]``."""

    @abstractmethod
    def pack(self, model: Any, vectors: Tensor, canvas: Canvas) -> Tensor:
        """Visual tokens of B images: ``[B, V, cells, width]`` to ``[B, N, width]``; one view is packed as if alone."""

    def positions(self, canvas: Canvas, visual: int, offset: Tensor) -> Tensor:  # noqa: ARG002
        """Position ids of head, visual tokens and text: ``[B, HEAD + N + T]``, or ``[3, ...]`` with three axes.

        Args:
            canvas: of the images.
            visual: N.
            offset: ``[B, T]`` place of each text token in its branch.
        """
        visible = HEAD + visual
        return torch.cat([torch.arange(visible).expand(len(offset), -1), visible + offset], 1)
