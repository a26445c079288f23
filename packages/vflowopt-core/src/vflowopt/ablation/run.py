"""Fill the cells of all studies, each once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vflowopt.ablation.searches import Searches
from vflowopt.ablation.studies import Plan, Study, cells_of
from vflowopt.ablation.table import Table
from vflowopt.ablation.variants import Variant
from vflowopt.compare import Cell, Effort, Store, Subject, Watch, fill, rows_of
from vflowopt.compare.contracts import Asked


@dataclass(frozen=True)
class Ablation:
    """The studies of one model.

    Attributes:
        subject: the model and what it is asked.
        sets: samples to search on, by name of the set.
        studies: in the order of the report.
        budgets: average retentions.
        seeds: of every search.
    """

    subject: Subject
    sets: Mapping[str, Sequence[Asked]]
    studies: Sequence[Study]
    budgets: Sequence[float]
    seeds: int

    @property
    def variants(self) -> dict[str, Variant]:
        """By name."""
        return {line.variant.name: line.variant for study in self.studies for line in study.lines}

    @property
    def cells(self) -> list[Cell]:
        """Of all studies: what is searched on the same encoded samples stands together."""
        variants, seen = self.variants, dict[object, int]()

        def place(cell: Cell) -> int:
            encoded = variants[cell.method].recipe.encoded if cell.method in variants else None
            return seen.setdefault(encoded, len(seen))

        return sorted(dict.fromkeys(cell for study in self.studies for cell in self._of(study)), key=place)

    def tables(self, store: Store) -> list[Table]:
        """One per study."""
        return [
            Table(self.subject.label, study, rows_of(self._of(study), store.results, study.names))
            for study in self.studies
        ]

    def _of(self, study: Study) -> list[Cell]:
        return cells_of(self.subject.label, study, self.budgets, self.seeds)


def run(
    ablations: Sequence[Ablation],
    plan: Plan,
    store: Store,
    *,
    judge: Callable[[str, Sequence[str]], bool],
    effort: Effort,
    out: Path,
    watch: Watch,
) -> list[Table]:
    """Fill what is missing, strategies of other models last; see :func:`vflowopt.compare.fill`.

    Args:
        ablations: one per model.
        plan: how strategies are searched.
        store: of finished cells.
        judge: whether an answer equals one of the accepted ones.
        effort: how much is done per cell.
        out: directory for searches and strategies.
        watch: looks on.

    Returns:
        A table per study and model, study by study.
    """
    for transferred in (False, True):
        for own in ablations:
            variants = own.variants
            foreign = {name for name, variant in variants.items() if variant.model is not None}
            cells = [cell for cell in own.cells if (cell.method in foreign) == transferred]
            names = {name: text for study in reversed(own.studies) for name, text in study.names.items()}
            source = Searches(variants, own.sets, plan, store)
            fill(source, own.subject, cells, names, store, judge=judge, effort=effort, out=out, watch=watch)
    tables = [table for own in ablations for table in own.tables(store)]
    order = list(dict.fromkeys(table.study.name for table in tables))
    return sorted(tables, key=lambda table: order.index(table.study.name))
