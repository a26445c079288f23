"""``optimize``: the search of paper Algorithm 1, the same without a framework, and random search to compare with."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vflowopt.adapter import Evaluator
from vflowopt.discovery.wrapping import unwrap
from vflowopt.plugins import find_adapter
from vflowopt.search.journal import Place, check_journal
from vflowopt.search.progress import SearchProgress
from vflowopt.search.result import OptimizeResult
from vflowopt.search.samples import Samples
from vflowopt.search.settings import PLATEAU, Budget, Known, Settings
from vflowopt.search.starts import given, known_good, taking_turns
from vflowopt.strategies.choices import Setting
from vflowopt.strategies.space import SearchSpace


def optimize(
    model: object,
    samples: Iterable[Mapping[str, object]],
    budget: Budget,
    *,
    iterations: int | None = None,
    initial: int | None = None,
    seed: int = 0,
    journal: str | Path | None = None,
    objective: str = "last-token",
    stages: Sequence[int] | None = None,
    starts: Iterable[Known] | None = None,
    fixed: Mapping[str, Setting] | None = None,
    fresh: int | None = None,
    plateau: float = PLATEAU,
    progress: SearchProgress | bool | None = None,
    processor: object = None,
    evaluator: Evaluator | None = None,
) -> OptimizeResult:
    """Search the pruning strategy that changes a model's outputs least at a fixed average retention (Algorithm 1).

    Varies the split of the budget over the stages, the threshold t, the entropy weight alpha, the recycling cell a and,
    beyond the paper, the diversity delta (:mod:`vflowopt.components.diversity`), the strength of mass
    (:mod:`vflowopt.components.mass`), what becomes of separators, and the scorer.
    Every strategy tried meets the budget exactly. Each evaluation is one prefill per sample. What is returned is chosen
    by the model of all evaluations and a race of the best few on samples that the search did not see.

    Args:
        model: a model that an installed adapter supports.
        samples: processor outputs, each what ``model(**inputs)`` takes; some tens of samples do.
        budget: average retention in (0, 1] (Eq. 5): the fraction of visual tokens that the average layer sees. Or
            several of them: one search serves all, and any in between. Or what one request may use, a
            :class:`vflowopt.KVCacheBytes` or :class:`vflowopt.PrefillLatency`: translated for the samples into the
            largest average retention that meets it.
        iterations: evaluations chosen by Expected Improvement, at all budgets together; by default 50, of several
            budgets 56.
        initial: evaluations before that: known good strategies (see :mod:`vflowopt.search.starts`), each at every
            budget, then uniform draws; by default 10, of several budgets 24. They are evaluated in this order, and the
            history says which is which.
        seed: the same seed and samples give the same history.
        journal: file that records every evaluation. The same call again resumes where it ended, also after a crash;
            more ``iterations`` than before continue the same search.
        objective: what is compared with the unpruned model (Eq. 8), for example ``"last-token"``.
        stages: decoder layers before which to prune; by default 0, L // 3 and 2 (L // 3).
        starts: strategies, or fronts of them, to begin with instead of the built-in ones, also of another budget,
            depth or number of stages; brought to the budget, and counted in ``initial``.
        fixed: variables that are not to vary, by name: ``{"diversity": 0}``, ``{"scorer": "divprune"}``.
        fresh: how many of the samples, the last ones, are held back for the race of the best few; by default a third
            of 12 or more, otherwise none.
        plateau: end where 1 - score is expected to fall by less than this part of it; 0 never ends early.
        progress: ``True`` for a bar on standard error, or a callable that takes each :class:`SearchStep`.
        processor: the model's processor, from which to take the pixel normalisation.
        evaluator: use this one, built before for the same model, instead of building one from ``samples``.

    Returns:
        The strategy with its provenance, the front of all budgets, and the history. After Ctrl-C, what was found until
        then.

    Raises:
        BudgetError: the budget is outside (0, 1] or too small for the samples; names the smallest feasible one.
        CostError: a latency is to be met by a cost model of another model or machine.
        InputError: samples, iterations, initial, seed, fresh or plateau cannot be used.
        StrategyError: stages, starts or fixed variables do not fit.
        JournalError: the journal belongs to another search, is damaged, or is not a journal.
        UnsupportedModelError: no adapter, or more than one, supports the model.
        UnsupportedOperationError: samples are to be held back, and the evaluator cannot evaluate them apart.
    """
    settings = Settings.of(budget, iterations, initial, seed, stages, starts, fixed, fresh, plateau)
    if journal is not None:
        check_journal(journal)  # before the samples are encoded, which takes a while
    if settings.requested is not None:
        settings.requested.check(find_adapter(model), model)
    if evaluator is None:
        adapter = find_adapter(model)
        SearchSpace.of(settings.budgets[-1], adapter.num_layers(model), stages=settings.stages)  # fails early
        evaluator = adapter.evaluator(model, samples, objective=objective, processor=processor)
    return _search(evaluator, settings, journal, progress, objective, _model_name(model))


def search(
    evaluator: Evaluator,
    budget: Budget,
    *,
    iterations: int | None = None,
    initial: int | None = None,
    seed: int = 0,
    journal: Place | None = None,
    objective: str = "last-token",
    stages: Sequence[int] | None = None,
    starts: Iterable[Known] | None = None,
    fixed: Mapping[str, Setting] | None = None,
    fresh: int | None = None,
    plateau: float = PLATEAU,
    progress: SearchProgress | bool | None = None,
    model_name: str | None = None,
) -> OptimizeResult:
    """:func:`optimize` for any :class:`Evaluator`; ``objective`` and ``model_name`` only label the result.

    Raises:
        BudgetError, InputError, StrategyError, JournalError: see :func:`optimize`.
    """
    settings = Settings.of(budget, iterations, initial, seed, stages, starts, fixed, fresh, plateau)
    return _search(evaluator, settings, journal, progress, objective, model_name)


def random_search(
    evaluator: Evaluator,
    budget: Budget,
    *,
    evaluations: int = 60,
    seed: int = 0,
    journal: Place | None = None,
    objective: str = "last-token",
    stages: Sequence[int] | None = None,
    fixed: Mapping[str, Setting] | None = None,
    progress: SearchProgress | bool | None = None,
    model_name: str | None = None,
) -> OptimizeResult:
    """Uniform draws from the same feasible space, without known good starts: what :func:`search` must beat.

    Raises:
        BudgetError, InputError, StrategyError, JournalError: see :func:`optimize`.
    """
    from vflowopt.search.choosing import Choosing  # takes a second: Emukit comes with it
    from vflowopt.search.loop import Run
    from vflowopt.search.proposer import UniformProposer

    settings = Settings.of(budget, 0, evaluations, seed, stages, (), fixed).translated(evaluator)
    space, samples = settings.space(evaluator), Samples.of(evaluator, 0)
    choosing = Choosing(evaluator, space, settings, objective, model_name, by_model=False)
    run = Run(samples, space, UniformProposer(space, settings.seed), settings, choosing)
    return run(journal, {"method": "random"}, progress)


def _search(
    evaluator: Evaluator,
    settings: Settings,
    journal: Place | None,
    progress: SearchProgress | bool | None,
    objective: str,
    model_name: str | None,
) -> OptimizeResult:
    from vflowopt.search.choosing import Choosing  # takes a second: Emukit comes with it
    from vflowopt.search.loop import Run
    from vflowopt.search.proposer import BayesianProposer

    settings = settings.translated(evaluator)
    space, samples = settings.space(evaluator), Samples.of(evaluator, settings.fresh)
    spaces = [replace(space, budget=budget) for budget in settings.budgets]
    known = [known_good(own) if settings.starts is None else given(own, settings.starts) for own in spaces]
    starts = taking_turns(known)[: settings.initial]
    proposer = BayesianProposer(space, settings.budgets, settings.seed, settings.initial, starts)
    choosing = Choosing(evaluator, space, settings, objective, model_name)
    method = {"method": "bayesian", "initial": settings.initial, "starts": [[name, *point] for name, point in starts]}
    return Run(samples, space, proposer, settings, choosing)(journal, method, progress)


def _model_name(model: object) -> str | None:
    """The path or hub id that a model was loaded from, if it says so."""
    name = getattr(getattr(unwrap(model), "config", None), "_name_or_path", None)
    return name if isinstance(name, str) and name else None
