"""What vLLM loads in each of its processes: front end, engine core, workers. Registers names, imports no model."""

import logging

from vflowopt_vllm.architectures import BY_NAME
from vflowopt_vllm.errors import ServingError
from vflowopt_vllm.interfaces import check_interfaces, newer_than_tested

logger = logging.getLogger(__name__)


def register() -> None:
    """Register the pruned models, under names of their own, and check their options before an engine starts.

    With a vLLM that is not as this package knows it nothing is registered, and one line says why: the models that vLLM
    serves without this package are none of its business.
    """
    try:
        check_interfaces()
    except ServingError as error:
        logger.error("vflowopt is not available: %s", error)
        return
    import vllm
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from vflowopt_vllm.configuring import register_configs

    untested = newer_than_tested(vllm.__version__)
    if untested is not None:
        logger.warning("%s", untested)
    known = ModelRegistry.get_supported_archs()
    for name, served in BY_NAME.items():
        if name not in known:
            ModelRegistry.register_model(name, served.model)
    register_configs(MODELS_CONFIG_MAP, known)
