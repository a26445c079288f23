"""JSON documents that state their format."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vflowopt.errors import shown


def read_text(path: str | Path) -> str:
    """The text of a file.

    Raises:
        ValueError: it cannot be read, or is not UTF-8; the message says why.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except TypeError as error:  # a path of another type
        raise ValueError(str(error)) from error


def parse_document(text: str | bytes, file_format: str) -> dict[str, Any]:
    """A JSON object that states this format.

    Raises:
        ValueError: it is something else; the message says what is wrong.
    """
    try:
        data = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply to be read") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"it is not JSON: {error}") from error
    if not isinstance(data, Mapping):
        raise ValueError(f"it is {shown(data)}, not a JSON object")
    if "format" not in data:
        raise ValueError(f'it does not say "format": "{file_format}"')
    if data["format"] != file_format:
        raise ValueError(f"its format is {shown(data['format'])}, expected {file_format!r}")
    return dict(data)
