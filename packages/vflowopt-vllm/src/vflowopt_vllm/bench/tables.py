"""The benchmark as tables."""

from vflowopt.benchmark.timing import Spread
from vflowopt.cli.bench_cells import Table, duration, gain
from vflowopt.figures import seconds, three_digits
from vflowopt_vllm.bench.result import Round, ServedRow, ServingBenchmark


def tables(measured: ServingBenchmark) -> list[Table]:
    """Throughput, and time to first token."""
    return [_throughput(measured), _first_token(measured)]


def _throughput(measured: ServingBenchmark) -> Table:
    def requests(one: Round) -> float:
        return one.requests_per_second

    def cells(row: ServedRow) -> tuple[str, ...]:
        return (
            row.name,
            f"{row.prompt_tokens:.1f}",
            _rate(row.over_rounds(requests)),
            gain(measured.times_as_many(row, requests)),
            _rate(row.over_rounds(lambda one: one.output_tokens_per_second)),
        )

    asked, rounds = measured.workload, len(measured.unpruned.rounds)
    width, height = asked.size
    caption = (
        f"vLLM {measured.vllm} on {measured.device}. {asked.clients} clients, {asked.requests} requests a round, each "
        f"with an image of {width} x {height} and {asked.words} words, answers of {asked.max_tokens} tokens. Medians "
        f"(quartiles) of {rounds} interleaved rounds; ratios are to the unpruned model in the same round."
    )
    columns = ("strategy", "prompt tokens", "requests/s", "over unpruned", "output tokens/s")
    return Table("Throughput", columns, tuple(map(cells, measured.rows)), caption)


def _first_token(measured: ServingBenchmark) -> Table:
    def median(one: Round) -> float:
        return one.first_token.median

    def cells(row: ServedRow) -> tuple[str, ...]:
        return (
            row.name,
            duration(row.over_rounds(median)),
            gain(_inverse(measured.times_as_many(row, median))),
            seconds(row.over_rounds(lambda one: one.first_token.low).median),
            seconds(row.over_rounds(lambda one: one.first_token.high).median),
        )

    caption = "Of the requests of a round, seen by their clients; medians (quartiles) of all rounds."
    columns = ("strategy", "median request", "times as fast", "first quartile", "third quartile")
    return Table("Time to first token", columns, tuple(map(cells, measured.rows)), caption)


def _rate(spread: Spread) -> str:
    low, high = three_digits(spread.low), three_digits(spread.high)
    return f"{three_digits(spread.median)} ({low} - {high})"


def _inverse(spread: Spread) -> Spread:
    return Spread.of([1 / value for value in spread.values])
