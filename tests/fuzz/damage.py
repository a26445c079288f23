"""Ways in which documents and files are damaged."""

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 3.5, 10**400, 1e308, "", "junk", "x" * 3000, [], [None], [[[]]], {}, {"name": "junk"},
    float("nan"), float("inf"), [-1, 0, 1e9], "\u202egnirts", "\x1b[31mred",
)  # fmt: skip
"""Values of other types, sizes and meanings."""

DEEP = "[" * 100_000
"""Valid so far as it goes, and deeper than any parser's stack."""


def texts(valid: bytes) -> Iterator[bytes]:
    """Files that are no JSON any more, or not what the name says."""
    yield b""
    yield b"\xff\xfe\x00broken"
    yield b"{"
    yield valid[: len(valid) // 2]
    yield DEEP.encode()
    yield (DEEP + "]" * len(DEEP)).encode()
    yield b'{"a":' * 50_000 + b"1" + b"}" * 50_000
    yield b"[]"
    yield b"null"
    yield b'"text"'
    yield b"9" * 5000
    yield b"{}"
    yield valid.replace(b'"', b"'")
    yield b"\x00" * 64


def changed(document: Any, random: Random) -> Any:
    """The document with one of its values replaced, taken out, or joined by an unknown one."""
    document = copy.deepcopy(document)
    places = list(_places(document))
    holder, key = places[random.randrange(len(places))]
    match random.randrange(4):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[f"unknown-{key}"] = holder[key]
        case _:
            holder[key] = random.choice(JUNK)
    return document


def dumped(document: Any) -> bytes:
    """As JSON, non-finite numbers and huge ones included."""
    import sys

    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(document).encode()
    finally:
        sys.set_int_max_str_digits(before)


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(items):
        yield document, key
        if isinstance(value, dict | list):
            yield from _places(value)
