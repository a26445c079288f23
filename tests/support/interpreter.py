"""Triton where there is no GPU: its interpreter runs kernels, and its compiler compiles them for one that is not there.

The interpreter needs its environment variable before Triton is imported, and so a process of its own. It takes bfloat16
for integers.
"""

import os

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether this is that process."""

DEVICE = "cpu" if INTERPRETED else "cuda"
"""Where kernels run."""

on_device = (lambda test: test) if INTERPRETED else pytest.mark.gpu
"""A test that runs kernels."""

needs_compiler = pytest.mark.skipif(INTERPRETED, reason="needs the compiler")


def compiled(kernel, kinds, fixed, **options):
    """PTX of a kernel for an H100.

    Args:
        kernel: as decorated by ``triton.jit``.
        kinds: of its arguments, by name; others are i32.
        fixed: values of its constants, by name, and of others, which it need not have.
        options: with which it is launched.
    """
    pytest.importorskip("triton", reason="there is no Triton for this platform")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in fixed else kinds.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in fixed.items() if name in names},
    )
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
