"""What dropping visual tokens costs: ``python -m vflowopt_reference.curve``.

A yardstick without any pruning library: tokens are dropped once, at the input of the language model, which still gets
the position ids of the unpruned prompt. Newlines are always kept. Random choice against mean attention received in the
tower's last layer; and no visual tokens at all, which is what can be guessed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .dataset import Example, held_out

if TYPE_CHECKING:
    from torch import Tensor

    from .processor import ReferenceProcessor


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A prompt of T tokens, N of them visual, as it enters the language model.

    Attributes:
        states: ``[T, width]``, visual tokens in place.
        visual: ``[N]`` positions of the visual tokens.
        attention: ``[N]`` mean attention each visual token received in the tower's last layer; infinite for newlines.
    """

    states: Tensor
    visual: Tensor
    attention: Tensor


def encode(model: Any, processor: ReferenceProcessor, example: Example) -> Encoded:
    """Runs the tower once; it must run eager attention, which alone returns its weights.

    Patches' scores are packed by upstream's own ``pack_image_features``, as a feature of width 1.
    """
    import torch

    inputs = processor(images=[example.image], text=[processor.prompt(example.question)])
    ids, pixels, sizes = inputs["input_ids"][0], inputs["pixel_values"], inputs["image_sizes"]
    features = model.model.get_image_features(pixels, sizes, output_attentions=True)
    received = features.attentions[-1].mean(1).mean(1)
    (packed,), _ = model.model.pack_image_features(
        [received[..., None]],
        sizes,
        image_newline=torch.full((1,), math.inf),
        vision_aspect_ratio=model.config.vision_aspect_ratio,
    )
    visual = (ids == processor.image_token_id).nonzero()[:, 0]
    states = model.get_input_embeddings()(ids).index_copy(0, visual, features.pooler_output[0])
    return Encoded(states, visual, packed[:, 0])


def keep(score: Tensor, retention: float) -> Tensor:
    """Ascending indices of the floor(retention * N + 1/2) best tokens; ties go to the earlier one."""
    import torch

    count = math.floor(retention * len(score) + 0.5)
    return torch.sort(score, descending=True, stable=True).indices[:count].sort().values


def first_word(model: Any, processor: ReferenceProcessor, prompt: Encoded, kept: Tensor) -> str:
    """The first word of the answer with only the ``kept`` visual tokens (indices into N)."""
    import torch

    stays = torch.ones(len(prompt.states), dtype=torch.bool)
    stays[prompt.visual] = False
    stays[prompt.visual[kept]] = True
    positions = stays.nonzero()[:, 0]
    out = model.model.language_model(
        inputs_embeds=prompt.states[positions][None],
        position_ids=positions[None],
        # Without a mask, gaps in the position ids would be taken for packed sequences.
        attention_mask=torch.ones(1, len(positions), dtype=torch.long),
        use_cache=False,
    )
    return processor.decode(model.lm_head(out.last_hidden_state[0, -1:]).argmax(-1))


def curve(
    model: Any, processor: ReferenceProcessor, examples: Sequence[Example], retentions: Sequence[float], seed: int = 0
) -> dict[str, dict[float, float]]:
    """Accuracy per way of choosing and retention; ``unpruned`` and ``blind`` have one entry each."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    right: dict[str, dict[float, int]] = {"unpruned": {}, "random": {}, "mean attention": {}, "blind": {}}
    with torch.inference_mode():
        for example in examples:
            prompt = encode(model, processor, example)
            attention = prompt.attention
            noise = torch.where(attention.isinf(), attention, torch.rand(attention.shape, generator=generator))
            runs = [("unpruned", noise, 1.0), ("blind", noise, 0.0)]
            runs += [("random", noise, r) for r in retentions] + [("mean attention", attention, r) for r in retentions]
            for name, score, retention in runs:
                hit = first_word(model, processor, prompt, keep(score, retention)) == example.answer
                right[name][retention] = right[name].get(retention, 0) + hit
    return {name: {r: hits / len(examples) for r, hits in points.items()} for name, points in right.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m vflowopt_reference.curve",
        description="Accuracy against the share of visual tokens kept: random, by mean vision attention, and blind.",
    )
    parser.add_argument("--weights", default="reference", help="LLaVA-OneVision weights (default: the shipped ones)")
    parser.add_argument("--count", type=int, default=500, help="questions (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of questions and of the random choice (default 0)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)

    import torch

    from . import load_model, load_processor

    torch.set_num_threads(options.threads)
    model = load_model(options.weights, attn_implementation={"vision_config": "eager", "text_config": "sdpa"})
    examples = held_out(options.count, seed=options.seed)
    result = curve(model, load_processor(options.weights), examples, (0.5, 0.25, 0.1), options.seed)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for name, points in result.items():
        print(f"{name:16s}", "  ".join(f"{retention:.0%}: {value:.3f}" for retention, value in points.items()))


if __name__ == "__main__":
    main()
