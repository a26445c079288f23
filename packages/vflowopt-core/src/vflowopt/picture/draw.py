"""Plans of a prompt drawn over its images and videos."""

from collections.abc import Iterator, Sequence

from PIL import Image

from vflowopt.errors import InputError
from vflowopt.picture.blocks import bars, heading, legend, stack
from vflowopt.picture.panels import image_rows
from vflowopt.picture.sheet import contact_sheet
from vflowopt.plans.plan import PruningPlan

Medium = Image.Image | Sequence[Image.Image]
"""An image, or the frames of a video as the model was given them."""


def draw_plans(
    plans: Sequence[PruningPlan],
    media: Sequence[Medium],
    *,
    num_layers: int,
    title: str = "",
    subtitle: str = "",
) -> Image.Image:
    """Draw plans over their images and videos.

    Args:
        plans: one per image or video, in prompt order; or, for models to which the frames of a video are images, one
            per image and frame.
        media: the original images, and videos as their frames, of any size.
        num_layers: decoder layers, for the bars of tokens per layer.
        title: drawn on top, for example the question.
        subtitle: drawn below it, for example the answer.

    Raises:
        InputError: the numbers of plans and media do not go together, or a video has no frames.
    """
    blocks = [block for block in [heading(title, subtitle)] if block]
    seen = {"image": 0, "video": 0}
    for medium, own in _matched(plans, media):
        kind = "image" if isinstance(medium, Image.Image) else "video"
        seen[kind] += 1
        name = f"{kind} {seen[kind]}" if len(media) > 1 else ""
        if isinstance(medium, Image.Image):
            blocks.extend(image_rows(own[0], medium, name))
        else:
            blocks.append(contact_sheet(own, medium, name))
        blocks += [legend(own), bars(own, num_layers)]
    return stack(blocks)


def _matched(plans: Sequence[PruningPlan], media: Sequence[Medium]) -> Iterator[tuple[Medium, Sequence[PruningPlan]]]:
    """Each image or video with its plans."""
    frames = [1 if isinstance(medium, Image.Image) else len(medium) for medium in media]
    if not media or 0 in frames or len(plans) not in (len(media), sum(frames)):
        held = [f"a video of {count} frames" if count != 1 else "1 image or frame" for count in frames]
        raise InputError(f"{len(plans)} plans cannot be drawn over {' and '.join(held) or 'nothing'}")
    sizes = [1] * len(media) if len(plans) == len(media) else frames
    start = 0
    for medium, size in zip(media, sizes, strict=True):
        yield medium, plans[start : start + size]
        start += size
