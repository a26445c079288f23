"""``vflowopt optimize``: search a strategy for a budget."""

from pathlib import Path
from typing import Annotated

import typer

from vflowopt.cli.console import notes, percent, print_json, results, tracked
from vflowopt.cli.data import PromptOption, SampleDataOption, SampleImagesOption, check_out, gather
from vflowopt.cli.media import FRAMES, FramesOption, VideosOption
from vflowopt.cli.models import DeviceOption, DtypeOption, ModelOption, choose

EXAMPLES = """
[b]Examples[/b]

vflowopt optimize -m reference --budget 0.25 --out reference-25.json

vflowopt optimize -m llava-hf/llava-onevision-qwen2-7b-ov-hf --budget 0.25 --images photos/ --out ov-25.json

vflowopt optimize -m llava-hf/llava-onevision-qwen2-7b-ov-hf --budget 0.25 --video clip.mp4 --out ov-25.json
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("optimize", epilog=EXAMPLES)(optimize)


def optimize(
    model: ModelOption,
    budget: Annotated[float, typer.Option(help="Average retention in (0, 1], for example 0.25.")],
    out: Annotated[Path, typer.Option(help="Strategy file to write.")],
    images: SampleImagesOption = None,
    video: VideosOption = None,
    frames: FramesOption = FRAMES,
    prompt: PromptOption = None,
    data: SampleDataOption = None,
    samples: Annotated[int, typer.Option(min=1, help="How many samples to use: the first ones.")] = 30,
    iterations: Annotated[int, typer.Option(help="Evaluations chosen by Expected Improvement.")] = 50,
    initial: Annotated[
        int, typer.Option(help="Evaluations before that: known good strategies, then random ones.")
    ] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    journal: Annotated[
        Path | None, typer.Option(help="Record of every evaluation; the same command resumes it, also after a crash.")
    ] = None,
    objective: Annotated[
        str, typer.Option(help="What to keep: last-token, first-token, mean-pooling or top-3-tokens.")
    ] = "last-token",
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Search the strategy that changes a model's outputs least at a given budget.

    Every evaluation is one prefill per sample. Ctrl-C ends the search and keeps the best strategy found so far.
    """
    from vflowopt.plugins import load_adapter
    from vflowopt.schedule import check_budget
    from vflowopt.search import RichProgress, SearchSpace, search
    from vflowopt.search.journal import check_journal
    from vflowopt.search.settings import Settings

    # Everything that can be refused without loading a model is refused first.
    Settings.of(check_budget(budget), iterations, initial, seed, None, None)
    if journal is not None:
        check_journal(journal)
    check_out(out)
    chosen = choose(model)
    questions = gather(
        chosen, data=data, split="search", count=samples, images=images, videos=video, frames=frames, prompt=prompt
    )
    load_adapter(chosen.model_type)
    loaded = chosen.load(device, dtype)
    SearchSpace.of(budget, loaded.adapter.num_layers(loaded.model))
    inputs = tracked([question.prepare(loaded) for question in questions], f"encoding {len(questions)} samples")
    evaluator = loaded.adapter.evaluator(loaded.model, inputs, objective=objective, processor=loaded.processor)
    with RichProgress(notes()) as progress:
        result = search(
            evaluator,
            budget,
            iterations=iterations,
            initial=initial,
            seed=seed,
            journal=journal,
            objective=objective,
            progress=progress,
            model_name=chosen.label,
        )
    result.strategy.save(out)
    for note in result.notes:
        notes().print(note, highlight=False)
    if as_json:
        print_json({"strategy": result.strategy.model_dump(mode="json"), "file": str(out), "score": result.best.score,
                    "retention": result.best.retention, "evaluations": len(result.history),
                    "interrupted": result.interrupted})  # fmt: skip
        return
    ended = "interrupted after" if result.interrupted else "best of"
    results().print(
        f"{out}: similarity {result.best.score:.4f} at {percent(result.best.retention)} average retention "
        f"({ended} {len(result.history)} evaluations, found as {result.best.origin})",
        highlight=False,
        soft_wrap=True,
    )
