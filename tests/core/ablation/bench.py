"""A model that is a formula: questions are right as often as a strategy is good, so that ablations have an outcome."""

from dataclasses import dataclass, field

from core.search.synthetic import Synthetic
from vflowopt.compare.panel import Answered
from vflowopt.report import UnitReport

LAYERS, TOKENS = 9, 196


@dataclass
class Stub:
    """A loaded model; its evaluators are :class:`core.search.synthetic.Synthetic`."""

    name: str = "stub"
    model: object = None
    processor: object = None
    layers: int = LAYERS
    evaluators: list = field(default_factory=list)
    answered: int = 0

    @property
    def adapter(self):
        return self

    def num_layers(self, model):
        return self.layers

    def evaluator(self, model, samples, *, objective="last-token", processor=None):
        samples = [sample["n"] for sample in samples]
        made = Synthetic(num_layers=self.layers, fingerprint=f"{samples} {objective}")
        self.evaluators.append((samples, objective, made))
        return made

    def panel(self, questions, max_new_tokens, *, keep=True):
        self.questions = [question["n"] for question in questions]
        return self

    def __len__(self):
        return len(self.questions)

    def answer(self, question, strategy):
        if strategy is None:
            return Answered("red", 1.0, (TOKENS,), (), 100, 10)
        self.answered += 1
        counts = strategy.schedule.counts(TOKENS)
        score = Synthetic(num_layers=self.layers).true(strategy)
        unit = UnitReport(0, TOKENS, 0, counts, strategy.average_retention(self.layers), {})
        right = self.questions[question] / len(self.questions) < score
        return Answered("red" if right else "blue", score, (TOKENS, *counts), (unit,), 50, 5)


@dataclass(frozen=True)
class Asked:
    n: int
    answers: tuple = ("red",)

    def prepare(self, loaded):
        return {"n": self.n}


class Silent:
    def begin(self, what, total):
        pass

    def advance(self):
        pass

    def done(self, result):
        pass
