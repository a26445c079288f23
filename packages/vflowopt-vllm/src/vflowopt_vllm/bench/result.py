"""What the benchmark returns: every answer of every round, and what follows from them."""

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from vflowopt.benchmark.timing import Spread
from vflowopt.files.output import FileKind
from vflowopt_vllm.bench.workload import Workload

FORMAT = "vflowopt-serving-benchmark/1"
RESULT_FILE = FileKind.json("a serving benchmark", FORMAT)


@dataclass(frozen=True)
class Answer:
    """One request as its client saw it.

    Attributes:
        first_token: seconds until the first token.
        seconds: until the last one.
        prompt_tokens: that entered the language model, as the server counted them.
        output_tokens: that came back.
    """

    first_token: float
    seconds: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Round:
    """All requests of one round to one server.

    Attributes:
        seconds: from the first request to the last answer.
        answers: in the order in which they were complete.
    """

    seconds: float
    answers: tuple[Answer, ...]

    @property
    def requests_per_second(self) -> float:
        """Throughput."""
        return len(self.answers) / self.seconds

    @property
    def output_tokens_per_second(self) -> float:
        """Throughput, of what was generated."""
        return sum(answer.output_tokens for answer in self.answers) / self.seconds

    @cached_property
    def first_token(self) -> Spread:
        """Of all requests: seconds until the first token."""
        return Spread.of([answer.first_token for answer in self.answers])


@dataclass(frozen=True)
class ServedRow:
    """A row of the benchmark.

    Attributes:
        name: the strategy, or ``"unpruned"``.
        rounds: in order; the round that warmed up is not among them.
    """

    name: str
    rounds: tuple[Round, ...]

    @property
    def prompt_tokens(self) -> float:
        """Mean per request."""
        return statistics.fmean(answer.prompt_tokens for one in self.rounds for answer in one.answers)

    def over_rounds(self, figure: Callable[[Round], float]) -> Spread:
        """A figure of each round."""
        return Spread.of([figure(one) for one in self.rounds])


@dataclass(frozen=True)
class ServingBenchmark:
    """Of one model.

    Attributes:
        model: as it was given.
        vllm: its release.
        device: what it ran on.
        arguments: further ones of all servers.
        workload: what was asked in every round.
        rows: unpruned first.
    """

    model: str
    vllm: str
    device: str
    arguments: tuple[str, ...]
    workload: Workload
    rows: tuple[ServedRow, ...]

    @property
    def unpruned(self) -> ServedRow:
        """The row that others are compared with."""
        return self.rows[0]

    def times_as_many(self, row: ServedRow, figure: Callable[[Round], float]) -> Spread:
        """Ratios of a row's figure to that of the unpruned model in the same round."""
        return row.over_rounds(figure).over(self.unpruned.over_rounds(figure))

    def to_json(self) -> str:
        """All of it, as it is written to ``--out``."""
        document: Mapping[str, Any] = {"format": FORMAT, **asdict(self)}
        return json.dumps(document, indent=1) + "\n"
