"""What pruning did over all questions of a run."""

from dataclasses import dataclass, field

from vflowopt.report import PruningReport


@dataclass
class Tally:
    """Sums over questions.

    Attributes:
        reports: of every question with images or videos; none where nothing is pruned.
        seconds: time spent in generating.
        tokens: of the answers' texts.
    """

    reports: list[PruningReport] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0

    @property
    def speed(self) -> float:
        """Tokens of answers per second, prefill included."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def pruning(self) -> dict[str, float]:
        """Means per question: achieved average retention, visual tokens before pruning and after each stage, cache."""
        if not self.reports:
            return {}
        count = len(self.reports)
        told = {
            "retention": sum(report.retention for report in self.reports) / count,
            "visual_tokens": sum(unit.tokens for report in self.reports for unit in report.units) / count,
        }
        for stage, boundary in enumerate(self.reports[0].boundaries):
            kept = sum(unit.counts[stage] for report in self.reports for unit in report.units)
            told[f"visual_tokens_from_layer_{boundary}"] = kept / count
        told["kv_cache_bytes"] = sum(report.kv_cache_bytes for report in self.reports) / count
        told["kv_cache_bytes_unpruned"] = sum(report.kv_cache_bytes_unpruned for report in self.reports) / count
        return told
