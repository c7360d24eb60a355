"""Rounding errors of double precision, as bounds that hold for any order of summation, with or without fused multiply-add.

Model (Higham 2002, Accuracy and Stability of Numerical Algorithms, sections 2.2 and 3.1): ``fl(a op b) = (a op b)(1+d)``
with ``|d| <= u = 2^-53``, and an inner product of n terms is off by at most ``gamma_n |x|.|y|``, ``gamma_n = n u / (1 - n u)``.
Underflow adds at most ``TINY``. Transforms such as Winograd or FFT convolution do not obey the second bound: convolutions
here run in double precision without cuDNN, that is as matrix products.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

UNIT = 2.0**-53
TINY = 1e-290


def gamma(terms: int) -> float:
    """Relative error bound of an inner product of ``terms`` terms."""
    return terms * UNIT / (1.0 - terms * UNIT)


@contextlib.contextmanager
def plain_sums() -> Iterator[None]:
    """Run convolutions as inner products, and without gradients."""
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
        yield
