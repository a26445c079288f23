"""A benchmark as a picture: gains as bars, where the time goes as stacked bars, and whole answers."""

from collections.abc import Sequence

from PIL import Image

from vflowopt.benchmark.generation import Mode
from vflowopt.benchmark.phases import REST, phases
from vflowopt.benchmark.result import IN_PREFILL, Benchmark, Part
from vflowopt.picture.bars import Bars
from vflowopt.picture.blocks import heading, stack
from vflowopt.picture.paint import BLUE, LATER, ORANGE, Color

BAR, GAP = 16, 18
MOST_RUNS = 6
GAINS: dict[Part, Color] = {"LM prefill": BLUE, "end-to-end prefill": ORANGE, "decode per token": LATER[3]}
PHASES: dict[str, Color] = dict(
    zip((*IN_PREFILL, REST), (LATER[3], ORANGE, LATER[1], LATER[0], BLUE, (190, 190, 196)), strict=True)
)
"""After Okabe and Ito, which colour-blind readers can tell apart."""
ANSWERS: dict[Mode, Color] = {
    "eager": BLUE,
    "compiled": ORANGE,
    "layers": LATER[1],
    "graphs": LATER[3],
    "graphs-compiled": LATER[0],
}


def draw_runs(runs: Sequence[Benchmark], title: str) -> Image.Image:
    """Gains and parts of each run; of a long sweep the first few runs."""
    blocks: list[Image.Image] = []
    for run in runs[:MOST_RUNS]:
        sizes = f"{run.unpruned.tokens[0]:,} visual tokens, {run.text_tokens:,} text tokens, batch {run.batch}"
        blocks += filter(None, (heading(title, f"{sizes}; {run.device}"), _gains(run), _parts(run), _answers(run)))
    if len(runs) > MOST_RUNS:
        blocks += filter(None, [heading("", f"The first {MOST_RUNS} of {len(runs)} runs.")])
    return stack(blocks)


def _gains(run: Benchmark) -> Image.Image | None:
    """Bars per strategy with whiskers at the quartiles, and a line where the FLOPs ratio is."""
    pruned, parts = run.rows[1:], [part for part in GAINS if part in run.unpruned.times]
    spreads = [run.speedups(row, part) for row in pruned for part in parts]
    if not any(spreads):
        return None
    shows_flops = "LM prefill" in parts
    most = max(spread.high for spread in spreads if spread)
    if shows_flops:
        most = max([most, *(run.flops_ratio(row) for row in pruned)])
    group = BAR * len(parts) + GAP
    title = "How many times as fast as unpruned; whiskers: quartiles of the ratios of single rounds"
    title += "; black line: ratio of the LM's FLOPs, counted" if shows_flops else ""
    chart = Bars(title, {part: GAINS[part] for part in parts}, group * len(pruned), most, "{:g}x")
    for number, row in enumerate(pruned):
        top = number * group + GAP / 2
        chart.name(top + (group - GAP) / 2, row.name)
        for index, part in enumerate(parts):
            spread = run.speedups(row, part)
            if spread is None:
                continue
            y = top + index * BAR
            chart.bar(0, spread.median, y, BAR, GAINS[part])
            chart.whisker(spread.low, spread.high, y + BAR / 2)
            mark = run.flops_ratio(row) if shows_flops else 0.0
            beside_mark = 0 <= mark - spread.high < most / 10
            chart.value(mark if beside_mark else spread.high, y + BAR / 2, f"{spread.median:.2f}x")
        if shows_flops:
            chart.mark(run.flops_ratio(row), top - 4, top + BAR * len(parts) + 4)
    return chart.reduced()


def _parts(run: Benchmark) -> Image.Image | None:
    """One bar per row, made of the parts of its end-to-end prefill."""
    split = {row.name: [one for one in phases(run, row)[:-1] if not one.within] for row in run.rows}
    whole = {row.name: row.times["end-to-end prefill"].wall.median for row in run.rows if split[row.name]}
    if not whole:
        return None
    # Where the machine was disturbed, parts may add up to more than the whole.
    sums = [max(total, sum(one.seconds for one in split[name] if one.seconds > 0)) for name, total in whole.items()]
    there = {one.name for own in split.values() for one in own}
    shown = {name: color for name, color in PHASES.items() if name in there}
    title = "Where the end-to-end prefill goes, in milliseconds; the rest is the difference, not measured"
    chart = Bars(title, shown, (BAR + GAP) * len(whole), 1e3 * max(sums), "{:g}")
    for number, (name, total) in enumerate(whole.items()):
        top, start = number * (BAR + GAP) + GAP / 2, 0.0
        chart.name(top + BAR / 2, name)
        for one in split[name]:
            chart.bar(start, start + 1e3 * max(0.0, one.seconds), top, BAR, PHASES[one.name])
            start += 1e3 * max(0.0, one.seconds)
        shown_total = f"{total:.2f} s" if total >= 1 else f"{1e3 * total:.3g} ms"
        chart.value(max(start, 1e3 * total), top + BAR / 2, shown_total)
    return chart.reduced()


def _answers(run: Benchmark) -> Image.Image | None:
    """Bars per row, one for each mode: the time of the longest answer."""
    modes = [mode for mode in ANSWERS if run.unpruned.generated(mode) is not None]
    spreads = {
        (row.name, mode): one.times[one.longest].wall
        for row in run.rows
        for mode in modes
        if (one := row.generated(mode)) is not None
    }
    if not spreads:
        return None
    tokens = max(one.longest for one in run.unpruned.generation)
    group, most = BAR * len(modes) + GAP, max(spread.high for spread in spreads.values())
    title = f"A whole answer of {tokens:,} token{'' if tokens == 1 else 's'}, in milliseconds; whiskers: quartiles"
    chart = Bars(title, {mode: ANSWERS[mode] for mode in modes}, group * len(run.rows), 1e3 * most, "{:g}")
    for number, row in enumerate(run.rows):
        top = number * group + GAP / 2
        chart.name(top + (group - GAP) / 2, row.name)
        for index, mode in enumerate(modes):
            if (spread := spreads.get((row.name, mode))) is not None:
                y = top + index * BAR
                chart.bar(0, 1e3 * spread.median, y, BAR, ANSWERS[mode])
                chart.whisker(1e3 * spread.low, 1e3 * spread.high, y + BAR / 2)
                chart.value(1e3 * spread.high, y + BAR / 2, f"{1e3 * spread.median:,.0f} ms")
    return chart.reduced()
