"""The study's figures as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from .rows import SEARCHED


def markdown(figures: dict[str, Any], settings: dict[str, Any], command: str) -> str:
    """Everything in the figures so far."""
    lines = [
        "# What pruning does to the reference model",
        "",
        f"Made by `{command}` ({settings['questions']} held-out questions, {settings['samples']} search samples, "
        f"{settings['initial']} + {settings['iterations']} evaluations per search, weights "
        f"{settings['weights'][:12]}). Mean over seeds, with the lowest and highest in brackets.",
    ]
    quality = {key: value for key, value in figures.items() if key.startswith("quality/")}
    if "quality/unpruned" in quality:
        lines += ["", *_quality(quality)]
    searches = {key: value for key, value in figures.items() if key.startswith("search/")}
    if searches:
        lines += ["", *_searches(searches)]
    if "cost" in figures:
        lines += ["", *_cost(figures["cost"], settings)]
    return "\n".join(lines) + "\n"


def _quality(figures: dict[str, Any]) -> list[str]:
    full = figures["quality/unpruned"]["right"] / figures["quality/unpruned"]["questions"]
    lines = [
        "## Accuracy and similarity at equal average retention",
        "",
        f"Unpruned accuracy: {full:.2%}. Ablations change one ingredient of the searched strategies and search nothing "
        "again.",
        "",
        "| budget | strategy | accuracy | of unpruned | similarity | retention | seeds |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key, value in figures.items():
        if key != "quality/unpruned":
            _, budget, group, _seed = key.split("/")
            groups.setdefault((budget, group), []).append(value)
    for (budget, group), scores in sorted(groups.items(), key=lambda entry: -float(entry[0][0])):
        accuracy = [score["right"] / score["questions"] for score in scores]
        name = f"**{group}**" if group == SEARCHED else group
        lines.append(
            f"| {float(budget):.0%} | {name} | {_spread(accuracy, '.1%')} | {statistics.mean(accuracy) / full:.1%} | "
            f"{_spread([score['similarity'] for score in scores], '.4f')} | "
            f"{statistics.mean(score['retention'] for score in scores):.2%} | {len(scores)} |"
        )
    return lines


def _searches(figures: dict[str, Any]) -> list[str]:
    lines = [
        "## Search against random search",
        "",
        "Best score (similarity on the search's samples) after equally many evaluations.",
        "",
        "| budget | seed | search | search without known starts | random search |",
        "|---:|---:|---:|---:|---:|",
    ]
    for key, best in figures.items():
        _, budget, seed = key.split("/")
        lines.append(
            f"| {float(budget):.0%} | {seed} | {best['search']:.5f} | {best['no starts']:.5f} | {best['random']:.5f} |"
        )
    return lines


def _cost(cost: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    ours, theirs = cost["seconds_per_evaluation"], cost["seconds_per_evaluation_paper"]
    count = settings["initial"] + settings["iterations"]
    whole = (cost["preparation_seconds"] + count * ours) / (count * theirs)
    return [
        "## Cost of an evaluation",
        "",
        f"{cost['evaluations']} evaluations on {cost['samples']} samples, the two procedures taking turns: "
        f"{ours:.2f} s each here, {theirs:.2f} s each with two full generations per sample as in the paper: "
        f"**{theirs / ours:.1f} times faster**. With the one-time preparation of the samples "
        f"({cost['preparation_seconds']:.1f} s), a search of {count} evaluations is {1 / whole:.1f} times faster.",
    ]


def _spread(values: Sequence[float], form: str) -> str:
    mean = format(statistics.mean(values), form)
    return f"{mean} ({format(min(values), form)} to {format(max(values), form)})" if len(values) > 1 else mean
