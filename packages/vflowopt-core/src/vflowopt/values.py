"""Values that are checked when they are made: what is wrong with them is an error of vflowopt, not of pydantic."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from vflowopt.errors import StrategyError, VFlowOptError, shown

_MOST = 4
"""Wrong fields that one message names."""


class Value(BaseModel):
    """Base of what strategies and other files consist of: frozen, without unknown fields, every number finite.

    Raises:
        VFlowOptError: a field is wrong, missing or unknown; of the kind that the class names in ``refusal``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    refusal: ClassVar[type[VFlowOptError]] = StrategyError
    """What is raised; also a :class:`ValueError`."""

    def __init__(self, /, **data: Any) -> None:
        """Check all fields; subclasses document theirs."""
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise self._refused(error) from error

    # To pydantic it is as good as its own: values inside values are made without it, and errors name the whole path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """See pydantic; raises as the constructor does."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise cls._refused(error) from error

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """See pydantic; raises as the constructor does."""
        try:
            return super().model_validate_json(json_data, **options)
        except ValidationError as error:
            raise cls._refused(error) from error

    @classmethod
    def as_part(cls, obj: Any) -> Self:
        """As a part of another value, by whose validator it is called: pydantic's own error gets its path there."""
        return super().model_validate(obj)

    @classmethod
    def _refused(cls, error: ValidationError) -> VFlowOptError:
        return cls.refusal(explained(error, cls.model_fields))


def explained(error: ValidationError, known: Iterable[str] = ()) -> str:
    """What is wrong, on one line: fields, their values, and what they take.

    Args:
        error: of pydantic.
        known: names of the fields, told to who has written another one.
    """
    entries = error.errors(include_url=False)
    told = [_told(entry, known) for entry in entries[:_MOST]]
    return "; ".join([*told, *([f"and {len(entries) - _MOST} more"] if len(entries) > _MOST else [])])


def _told(entry: Any, known: Iterable[str]) -> str:
    where = ".".join(map(_printable, entry["loc"]))
    match entry["type"]:
        case "missing":
            return f"{where} is missing"
        case "extra_forbidden":
            fields = f"; there are: {', '.join(known)}" if known and len(entry["loc"]) == 1 else "; leave it out"
            return f"there is no field {where!r}{fields}"
        case "value_error" | "assertion_error":
            wrong = str(entry["ctx"]["error"])
            if "got " not in wrong and not isinstance(entry["input"], Mapping):
                wrong += f", got {shown(entry['input'])}"
        case _:
            expected = entry["msg"].replace("Input should", "should").partition(", unable")[0]
            wrong = f"{expected}, got {shown(entry['input'])}"
    return f"{where}: {wrong}" if where else wrong


def _printable(key: int | str) -> str:
    """A key of a file as it may stand in one line on a terminal: whatever else it holds is escaped."""
    return shown(key)[1:-1] if isinstance(key, str) and (len(key) > 60 or not key.isprintable()) else str(key)
