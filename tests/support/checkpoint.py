"""A tiny random checkpoint on disk, complete with tokenizer and image processor, as ``from_pretrained`` reads it."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from support import tiny

TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endfor %}"
)


def save(directory: Path, *, seed: int = 0, broken: bool = False) -> Path:
    """Write it; ``broken`` weights make attention, and with it importance, not finite."""
    model = tiny.tiny_onevision(seed=seed)
    if broken:
        for layer in model.model.vision_tower.encoder.layers:
            layer.self_attn.q_proj.weight.data.fill_(float("nan"))
    model.save_pretrained(directory)
    words = {f"w{index}": index for index in range(tiny.VOCABULARY)}
    for word, index in (("<pad>", tiny.PAD), ("<image>", tiny.IMAGE), ("<video>", tiny.VIDEO), ("<end>", tiny.EOS)):
        del words[f"w{index}"]
        words[word] = index
    inner = Tokenizer(models.WordLevel(words, unk_token="w4"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(["<pad>", "<image>", "<video>", "<end>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<end>", unk_token="w4", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(directory)
    tiny.image_processor().save_pretrained(directory)
    return directory
