"""vLLM's worker for CPUs, with the correction of positions that its worker for GPUs has.

``CPUModelRunner.load_model`` replaces that of ``GPUModelRunner`` and leaves out one flag (vLLM 0.29 to 0.33, at least).
"""

from typing import Any

from vllm.v1.worker.cpu_worker import CPUWorker


class PruningCPUWorker(CPUWorker):
    """See the module's docstring."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the model; the runner then asks it for corrected positions."""
        super().load_model(*args, **kwargs)
        self.model_runner.is_multimodal_pruning_enabled = True
