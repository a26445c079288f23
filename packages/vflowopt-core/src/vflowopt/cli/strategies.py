"""``--strategy``: the option of all commands with a strategy, and what their help says of it."""

from typing import Annotated

import typer

HELP = "File, preset:NAME, [b]SCORER@BUDGET[,OPTION=VALUE...][/b] or a budget alone: see Strategies below."
STRATEGIES = """
[b]Strategies[/b]

A strategy is a file that vflowopt optimize or fit wrote, a published one (preset:llava-onevision-7b/25), a scorer with
its budget and options, or a budget alone (0.25): the best known strategy for the model's family. A file or preset may
be followed by @BUDGET, which brings it to another budget.

Most scorers prune once, before the LLM: random@0.25,seed=1; mean-attention@0.25;
calibrated-attention@0.1,threshold=1.5,cell=3.5.

Those that rank inside the decoder prune where their method does: fastv@0.25; pyramiddrop@0.4,stages=2/4/8.

mass=GAMMA gives retained tokens attention by what they stand for, from 0 (off) to 1 (fully). separators=keep, rank,
merge or drop says what becomes of row separators. rescorer=fastv ranks what is left anew at stages inside the decoder:
divprune@0.25,rescorer=fastv; divprune@0.25,rescorer=fastv,stages=0/9.

recycler=NAME replaces the method's own recycler, recycler=none leaves it out. vflowopt adapters lists scorers and
recyclers.
"""
"""Ends the help of commands with a strategy."""

StrategyOption = Annotated[str, typer.Option("--strategy", "-s", help=HELP)]
StrategiesOption = Annotated[list[str], typer.Option("--strategy", "-s", help=HELP + " May be repeated.")]
FurtherStrategiesOption = Annotated[
    list[str] | None, typer.Option("--strategy", "-s", help="Further strategies. " + HELP + " May be repeated.")
]
