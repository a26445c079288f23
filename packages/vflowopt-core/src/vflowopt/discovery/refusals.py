"""What to say of a model type that no installed adapter claims: what is nearest, what is missing, what to do."""

from collections.abc import Collection
from difflib import get_close_matches

from vflowopt.discovery.known_models import ADAPTERS_AWAY, CAPABILITIES_AWAY, NOT_THIS_METHOD, OFFICIAL_ADAPTERS

GUIDE = "docs/adapter-guide.md"


def refusal(model_type: str, claimed: Collection[str]) -> str:
    """One sentence or two.

    Args:
        model_type: that nobody claims.
        claimed: model types that installed adapters claim.
    """
    if model_type in NOT_THIS_METHOD:
        return f"model type {model_type!r} cannot be pruned: {NOT_THIS_METHOD[model_type]}"
    if model_type in CAPABILITIES_AWAY:
        nearest, capability = CAPABILITIES_AWAY[model_type]
        return (
            f"model type {model_type!r} cannot be pruned yet: vflowopt lacks {capability}. The nearest supported type "
            f"is {nearest!r} (docs/families.md); {GUIDE} says what a family needs"
        )
    unsupported = f"no installed adapter supports model type {model_type!r}"
    if model_type in OFFICIAL_ADAPTERS:
        return f"{unsupported}: pip install {OFFICIAL_ADAPTERS[model_type]}"
    if model_type in ADAPTERS_AWAY:
        nearest, told = ADAPTERS_AWAY[model_type]
        return (
            f"{unsupported}, and nothing but an adapter is missing: write one after that of {nearest!r} ({told}) as "
            f"{GUIDE} shows"
        )
    if not claimed:
        return f"{unsupported}, as no adapter package is installed: pip install vflowopt-hf"
    near = get_close_matches(model_type, sorted(claimed), n=1, cutoff=0)[0]
    return (
        f"{unsupported}; by name {near!r} is the nearest. Install an adapter for it or write one ({GUIDE}); "
        f"'vflowopt adapters' lists the supported types"
    )
