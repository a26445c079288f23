"""Runs the tests of kernels beside this file in Triton's interpreter, which needs a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.interpreter import INTERPRETED

FILES = ["test_fused_sums.py", "test_fused_order.py"]


@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
def test_kernels_in_the_interpreter():
    pytest.importorskip("triton", reason="there is no Triton for this platform")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not gpu", "-p", "no:cacheprovider"]
    files = [Path(__file__).with_name(name) for name in FILES]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([*command, *files], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
