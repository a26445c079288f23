"""A finished benchmark: what was measured on what, as a JSON document that can be read back."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from vflowopt.benchmark.growth import Growth
from vflowopt.benchmark.result import Benchmark
from vflowopt.errors import InputError

FORMAT: Literal["vflowopt/bench/1"] = "vflowopt/bench/1"


@dataclass(frozen=True)
class BenchReport:
    """Everything that one call of ``vflowopt bench`` measured.

    Attributes:
        subject: the model or shape; of a measurement of growth, what grows.
        summary: one line on it.
        command: what was typed.
        versions: of Python and of the packages that matter.
        runs: one per number of visual tokens, text tokens and samples.
        growth: if growth was measured instead.
        format: of the JSON document.
    """

    subject: str
    summary: str
    command: str
    versions: dict[str, str] = field(default_factory=dict)
    runs: tuple[Benchmark, ...] = ()
    growth: Growth | None = None
    format: Literal["vflowopt/bench/1"] = FORMAT

    def to_data(self) -> dict[str, Any]:
        """The report in terms of JSON."""
        data: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return {"format": data.pop("format"), **data}

    @classmethod
    def from_data(cls, data: Any) -> "BenchReport":
        """Back from :meth:`to_data`.

        Raises:
            InputError: it is no such document.
        """
        try:
            return _ADAPTER.validate_python(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "document"
            raise InputError(f"not a {FORMAT} document: {where}: {first['msg']}") from error


_ADAPTER = TypeAdapter(BenchReport)
