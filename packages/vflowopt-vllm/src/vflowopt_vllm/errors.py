"""What is raised where vLLM shows errors to users."""

from vflowopt.errors import VFlowOptError


class ServingError(VFlowOptError):
    """An engine cannot be started with this strategy, model, option or release of vLLM.

    It is no :class:`ValueError` on purpose: pydantic, which checks vLLM's options, would wrap it in its own lines.
    """
