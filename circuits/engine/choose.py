"""Which evaluation path a circuit takes, by device, number of rows, and what is installed."""

from __future__ import annotations

import importlib.util
from functools import cache

import torch

from neurosym.circuits.engine.kernel import Kernel
from neurosym.circuits.engine.program import Program
from neurosym.errors import InputError

ENGINES = ("auto", "terms", "matrix", "numba", "numpy", "torch", "triton", "log")
"""Names that ``Circuit(engine=...)`` takes. ``auto`` picks one for every call; ``log`` is the exact log-space path.

``terms`` and ``matrix`` need few disjoint terms: compiled products where numba is installed, or always a matrix product.
"""
FEW_ROWS = 16
"""Up to so many rows numpy has less overhead than torch."""


@cache
def installed(module: str) -> bool:
    """The optional module can be imported."""
    return importlib.util.find_spec(module) is not None


def pick(device: torch.device, batch: int) -> str:
    """Kernel for ``auto``."""
    if device.type == "cuda":
        return "triton" if installed("triton") else "torch"
    if device.type != "cpu":
        return "torch"
    if installed("numba"):
        return "numba"
    return "numpy" if batch <= FEW_ROWS else "torch"


def make_kernel(name: str, program: Program) -> Kernel:
    """The kernel of that name.

    Raises:
        InputError: its package is not installed.
    """
    if name in ("numba", "triton") and not installed(name):
        raise InputError(f"engine {name!r} needs the package {name}; pip install {name}, or use engine='auto'")
    if name == "numba":
        from neurosym.circuits.engine.numba_kernel import NumbaKernel

        return NumbaKernel(program)
    if name == "numpy":
        from neurosym.circuits.engine.numpy_kernel import NumpyKernel

        return NumpyKernel(program)
    if name == "triton":
        from neurosym.circuits.engine.triton_kernel import TritonKernel

        return TritonKernel(program)
    from neurosym.circuits.engine.torch_kernel import TorchKernel

    return TorchKernel(program)
