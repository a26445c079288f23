"""What happens when vLLM has read its options, before any engine is started: the request is read and checked."""

from collections.abc import Iterable
from typing import Any

from vllm.model_executor.models.config import VerifyAndUpdateConfig
from vllm.platforms import current_platform

from vflowopt_vllm.architectures import BY_NAME, BY_UPSTREAM, Served
from vflowopt_vllm.errors import ServingError
from vflowopt_vllm.request import KEY, Request, resolved, retained

OPENS_GATE = 1e-9
"""vLLM corrects the positions of pruned prompts where ``video_pruning_rate`` is above 0. No video is served."""

DRAFTS_FROM_TEXT = ("ngram", "suffix")
"""Ways of speculative decoding that look at token ids alone."""

CPU_WORKER = "vflowopt_vllm.cpu_worker.PruningCPUWorker"


def pruning(served: Served, before: type[VerifyAndUpdateConfig]) -> type[VerifyAndUpdateConfig]:
    """For an architecture that this package registers.

    Args:
        served: the architecture.
        before: what vLLM does for its own one.
    """

    class PrunedModelConfig(before):
        @staticmethod
        def verify_and_update_model_config(model_config: Any) -> None:
            before.verify_and_update_model_config(model_config)
            read_request(served, model_config)

        @staticmethod
        def verify_and_update_config(vllm_config: Any) -> None:
            before.verify_and_update_config(vllm_config)
            check_engine(vllm_config)

    return PrunedModelConfig


def read_request(served: Served, model_config: Any) -> None:
    """Put the strategy in the place of the request.

    Raises:
        ServingError: there is no request, it cannot be carried out, or an option does not go with it.
    """
    config, multimodal = model_config.hf_config, model_config.multimodal_config
    request = getattr(config, KEY, None)
    if request is None:
        raise ServingError(
            f'{served.name} needs a strategy: add "{KEY}": "strategy.json" to the overrides, or take {served.upstream} '
            f"to serve the model unpruned"
        )
    if multimodal is None or multimodal.language_model_only:
        raise ServingError(f"{served.name} serves images; to serve text alone take {served.upstream}")
    if multimodal.enable_mm_embeds:
        raise ServingError(
            "precomputed image embeddings (--enable-mm-embeds) carry no attention to prune by; leave the option out"
        )
    if multimodal.video_pruning_rate:
        raise ServingError("--video-pruning-rate prunes videos, which are not served with a strategy; leave it out")
    setattr(config, KEY, resolved(Request.of(request).resolve(served.family(), config)))
    multimodal.video_pruning_rate = OPENS_GATE
    if not model_config.uses_mrope:
        # Tells vLLM to ask for positions of several axes. The decoder is built from its own configuration.
        config.rope_parameters = {"rope_type": "default", "mrope_section": [1, 1, 1]}


def check_engine(vllm_config: Any) -> None:
    """Check what the engine as a whole is asked for, and count a step of the vision tower by unpruned tokens.

    Raises:
        ServingError: an option would hide the vision tower's attention, or does not know pruned prompts.
    """
    for option in ("compile_mm_encoder", "cudagraph_mm_encoder"):
        if getattr(vllm_config.compilation_config, option, False):
            raise ServingError(
                f"{option} hides the attention of the vision tower; leave it out of the compilation config"
            )
    speculative = vllm_config.speculative_config
    if speculative is not None and speculative.method not in DRAFTS_FROM_TEXT:
        raise ServingError(
            f"speculative decoding by {speculative.method!r} drafts with a model, which does not know pruned prompts; "
            f"take one of {', '.join(DRAFTS_FROM_TEXT)}, or none"
        )
    # The scheduler fills a step of the vision tower by tokens that are left, and the tower has to run on all. Without
    # this, answers would wait for the towers of many more images than in an unpruned engine.
    scheduler = vllm_config.scheduler_config
    at_once = scheduler.max_num_encoder_input_tokens
    scheduler.max_num_encoder_input_tokens = retained(vllm_config.model_config.hf_config, at_once)
    parallel = vllm_config.parallel_config
    if current_platform.is_cpu() and parallel.worker_cls == "auto":
        parallel.worker_cls = CPU_WORKER


def refusing(name: str, before: type[VerifyAndUpdateConfig]) -> type[VerifyAndUpdateConfig]:
    """For one of vLLM's own architectures: what was done before, unless a strategy was asked for.

    Args:
        name: of the architecture.
        before: what vLLM does for it.
    """
    remedy = f"served with a strategy are {', '.join(sorted(BY_UPSTREAM))}"
    if name in BY_UPSTREAM:
        remedy = f'add "architectures": ["{BY_UPSTREAM[name].name}"] to the overrides'

    class UpstreamConfig(before):
        @staticmethod
        def verify_and_update_model_config(model_config: Any) -> None:
            if getattr(model_config.hf_config, KEY, None) is not None:
                raise ServingError(f"a strategy was given, but {name} does not prune: {remedy}")
            before.verify_and_update_model_config(model_config)

    return UpstreamConfig


def register_configs(known: dict[str, type[VerifyAndUpdateConfig]], architectures: Iterable[str]) -> None:
    """Add what this package does to what vLLM does; a second time changes nothing.

    Args:
        known: vLLM's table, by architecture.
        architectures: all that vLLM knows, with or without an entry in the table.
    """
    if BY_NAME.keys() <= known.keys():
        return
    for name in {*architectures, *known} - BY_NAME.keys():
        before = known.get(name, VerifyAndUpdateConfig)
        known[name] = refusing(name, before)
        if name in BY_UPSTREAM:
            served = BY_UPSTREAM[name]
            known[served.name] = pruning(served, before)
