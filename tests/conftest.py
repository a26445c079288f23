"""Settings of every test: no network, and the same Hypothesis examples on every run and machine."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
# Tiny models are fastest on one thread; two runs that share the cores would otherwise wait for each other in every
# operation. Also reaches the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

from hypothesis import HealthCheck, settings

settings.register_profile(
    "vflowopt",
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("vflowopt")
