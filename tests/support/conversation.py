"""A pruned cache that is continued by hand, as ``generate`` continues it."""

import torch
from transformers import DynamicCache

from vflowopt_hf.testing.batches import with_extra_inputs
from vflowopt_hf.upstream import with_cache


def dynamic(own):
    cache = DynamicCache(config=own.family.decoder(own.model).config)
    cache.activate_past_recording()  # sliding windows forget otherwise
    return cache


class Conversation:
    """A pruned cache and the prompts that it holds; continued by words or by another prompt."""

    def __init__(self, own, inputs, cache=None):
        self.own, self.cache = own, cache or dynamic(own)
        self.text = {name: inputs[name][:, :0] for name in ("input_ids", "attention_mask")}
        self.grids = {}
        self.add(inputs)

    def add(self, inputs):
        """Run a prompt; gives the logits of its last token."""
        self.text = {name: torch.cat([known, inputs[name]], dim=1) for name, known in self.text.items()}
        for name in {"image_grid_thw"} & set(inputs):
            self.grids[name] = torch.cat([*([self.grids[name]] if name in self.grids else []), inputs[name]])
        whole = with_extra_inputs(self.own.case, self.own.model, self.text | self.grids)
        positions = self.own.model._prepare_position_ids_for_generation(self.text["input_ids"], whole)
        arguments = {
            **inputs,
            "attention_mask": self.text["attention_mask"],
            "position_ids": positions[..., -inputs["input_ids"].shape[1] :],
            "use_cache": True,
            "logits_to_keep": 1,
        }
        with torch.no_grad():
            return self.own.model(**with_cache(self.own.model, arguments, self.cache)).logits[:, -1]

    def write(self, words):
        """Run the same words in every sample."""
        ids = torch.tensor([words] * len(self.text["input_ids"]))
        return self.add({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    def cut(self, tokens):
        self.cache.crop(-tokens)
        self.text = shortened(self.text, tokens)

    def lengths(self):
        """Logical and stored length of every layer; what a sliding window still holds besides does not count."""
        return [
            (int(layer.get_seq_length()), None if layer.is_sliding else int(layer.stored_length()))
            for layer in self.cache.layers
        ]


def shortened(inputs, tokens):
    """The prompts without their last tokens."""
    shape = inputs["input_ids"].shape
    return {name: part[:, : shape[1] - tokens] if part.shape == shape else part for name, part in inputs.items()}
