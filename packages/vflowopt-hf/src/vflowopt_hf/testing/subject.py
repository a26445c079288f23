"""What a check is run on: a case with one attention implementation, and what checks share."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vflowopt import Strategy
from vflowopt.adapter import Pruning
from vflowopt.components import Mass
from vflowopt.components.schedule import Progressive, default_stages
from vflowopt_hf.adapter import TransformersAdapter
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.testing.batches import Batch, Sample, build, picture
from vflowopt_hf.testing.case import Case


@dataclass(frozen=True, eq=False)
class Distance:
    """How far the logits of one pruned generation were from the oracle's, and might be.

    Attributes:
        batch: the prompts.
        found: the largest difference of a logit.
        allowed: the tolerance.
    """

    batch: Batch
    found: float
    allowed: float


class Subject:
    """A case's tiny model with one attention implementation; built when first asked for, shared by all checks.

    Attributes:
        distances: of all generations so far that agreed with the oracle.
    """

    def __init__(self, case: Case, attention: str) -> None:
        self.case, self.attention, self.family = case, attention, case.family
        self.adapter = TransformersAdapter(case.family)
        self.distances: list[Distance] = []

    @cached_property
    def model(self) -> Any:
        """The tiny model."""
        return self.case.model(self.attention)

    @cached_property
    def processor(self) -> Any:
        """The image processor if it states its pixel statistics, else None: the family's usual ones hold."""
        made = self.case.image_processor()
        return made if hasattr(made, "image_mean") else None

    @property
    def statistics(self) -> PixelStatistics:
        """Normalisation of the pixels."""
        return self.adapter.statistics(self.processor)

    @property
    def num_layers(self) -> int:
        """Decoder layers L."""
        return self.adapter.num_layers(self.model)

    def prune(self, strategy: Strategy) -> AbstractContextManager[Pruning]:
        """``vflowopt.prune`` with this family, installed as a plugin or not."""
        return self.adapter.prune(self.model, strategy, processor=self.processor)

    def image(self, index: int = 0) -> Sample:
        """A prompt with one image of the case's sizes."""
        index %= len(self.case.image_sizes)
        return Sample((picture(self.case.image_sizes[index], seed=index),), seed=index)

    def several(self) -> Sample:
        """A prompt with several images, if the family can have such."""
        sizes = self.case.image_sizes[: 3 if self.case.several_images else 1]
        return Sample(tuple(picture(size, seed=10 + index) for index, size in enumerate(sizes)), seed=5)

    def video(self, index: int = 0) -> Sample:
        """A prompt with one video."""
        return Sample((picture(self.case.video_sizes[index], seed=20 + index),), seed=7 + index)

    def mixed(self) -> Sample:
        """A prompt with a video after an image and, if the family can have several images, before another.

        Or of two videos, if upstream takes none beside images.
        """
        if not self.case.images_beside_videos:
            return Sample((*self.video(-1).media, *self.video().media), seed=4)
        after = self.image(-1).media if self.case.several_images else ()
        return Sample((*self.image(0).media, *self.video().media, *after), seed=4)

    def ragged(self) -> list[Sample]:
        """A batch of prompts of very different lengths: one image, several, none."""
        texts = [Sample(seed=9)] if self.case.text_only else []
        return [self.image(0), self.several(), *texts, self.image(-1)]

    def batch(self, *samples: Sample) -> Batch:
        """Inputs for some prompts."""
        return build(self.case, self.model, samples)

    def geometries(self) -> list[Batch]:
        """Batches of every image size alone, of several images in a prompt, and of every video size."""
        singles = self.batch(*(self.image(index) for index in range(len(self.case.image_sizes))))
        several = [self.batch(self.several())] if self.case.several_images else []
        return [singles, *several, *(self.batch(self.video(index)) for index in range(len(self.case.video_sizes)))]

    def strategy(
        self,
        batch: Batch,
        stages: tuple[int, ...] | None = None,
        *,
        cell: float | None = 2.5,
        entropy_weight: float = 0.5,
        threshold: float = 1.2,
        mass: Mass | None = None,
    ) -> Strategy:
        """A strategy that prunes hard, whatever share of the batch's tokens are separators; by default in 3 stages."""
        layouts = [placed.unit.layout for placed in batch.placed]
        share = max((float(layout.structural.mean()) for layout in layouts), default=0.0)
        stages = default_stages(self.num_layers) if stages is None else stages
        cumulative = [share + (1 - share) * 0.6 * 0.6**stage for stage in range(len(stages))]
        strategy = Strategy.vflowopt(
            num_layers=self.num_layers,
            retention=Progressive.from_cumulative(stages, cumulative).retention,
            stages=stages,
            threshold=threshold,
            entropy_weight=entropy_weight,
            cell=cell,
        )
        return strategy.model_copy(update={"mass": mass})
