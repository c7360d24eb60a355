"""Circuits in any commutative semiring: one definition of the circuit, many kinds of weights.

With weights from a commutative semiring, a circuit's value is the semiring sum over worlds of the semiring product of
literal weights and constants, provided the circuit is decomposable, smooth and, unless addition is idempotent
(a + a = a: maxima, minima, OR), deterministic (Kimmig, Van den Broeck and De Raedt, "Algebraic model counting", 2017).
The compilers here prove all three.

Elements are Python objects, or tensors with one element per row of a batch. In tensors an element may be a vector in
the last dimension (an interval, a value with its gradient). Constants of a circuit are logs of real numbers and enter a
semiring through its ``from_log``; weights enter through a :class:`Morphism` or are given in the semiring.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor

from neurosym.errors import InputError

Op = Callable[[Any, Any], Any]
Fold = Callable[[Tensor], Tensor]
LARGEST_LOG = 700.0
"""Logs within this of 0 have an exponential that is a normal double."""


@dataclass(frozen=True)
class Semiring:
    """A commutative semiring.

    Attributes:
        name: for messages.
        add, mul: on two elements, or on tensors of elements of one shape.
        zero, one: neutral elements as Python objects; a sequence for vector elements (filled up with zeros).
        from_log: the element for a constant given by its log; None allows the constants 0 and 1 only.
        idempotent: a + a = a, so that determinism is not needed.
        vector: elements in tensors are vectors along the last dimension.
        tensors: what the weights may be as tensors: ``any`` dtype, ``float64`` (others are converted), or ``none``, for
            Python numbers that a tensor would wrap or round.
        add_all, mul_all: folds over dimension 1 of a tensor, where one call beats pairwise folding.
    """

    name: str
    add: Op
    mul: Op
    zero: Any
    one: Any
    from_log: Callable[[float], Any] | None = None
    idempotent: bool = False
    vector: bool = False
    tensors: Literal["any", "float64", "none"] = "any"
    add_all: Fold | None = None
    mul_all: Fold | None = None

    def constant(self, log_value: float) -> Any:
        """Element for a constant of a circuit.

        Raises:
            InputError: the semiring has no image of it.
        """
        if log_value == -math.inf:
            return self.zero
        if log_value == 0.0:
            return self.one
        if self.from_log is None:
            raise InputError(
                f"semiring {self.name!r} has no image of the constant {math.exp(log_value)}; give it from_log"
            )
        return self.from_log(log_value)


@dataclass(frozen=True)
class Morphism:
    """A map of weights from one semiring into another.

    Attributes:
        source, target: the semirings.
        map: on one element, or on a tensor of elements.
        homomorphism: the map commutes with sums and products (up to rounding of floats), hence with the evaluation of
            any circuit. Where it does not, the value in the target answers another question (the best world instead of
            the sum, say) about the same weights.
    """

    source: Semiring
    target: Semiring
    map: Callable[[Any], Any]
    homomorphism: bool

    def __call__(self, element: Any) -> Any:
        """The image of an element, a tensor of elements, or a sequence of elements."""
        if isinstance(element, Sequence):
            return [self.map(item) for item in element]
        return self.map(element)

    def then(self, other: Morphism) -> Morphism:
        """First this map, then ``other``.

        Raises:
            InputError: ``other`` starts from another semiring.
        """
        if other.source is not self.target:
            raise InputError(f"a map into {self.target.name!r} cannot be followed by one from {other.source.name!r}")
        first, second = self.map, other.map
        return Morphism(self.source, other.target, lambda x: second(first(x)), self.homomorphism and other.homomorphism)


def _on(tensor_function: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """``tensor_function`` for tensors, ``function`` for Python numbers."""

    def apply(*args: Any) -> Any:
        return (tensor_function if isinstance(args[0], Tensor) else function)(*args)

    return apply


def _log_add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def _real_constant(log_value: float) -> float:
    return math.exp(log_value) if log_value < 709.0 else math.inf


def exact_constant(log_value: float) -> Fraction:
    """The constant as the exact value of its double, ``math.exp(log_value)``.

    Outside the range of normal doubles 17 significant decimal digits are kept instead, so that a soft rule of large
    weight never turns into a hard one.
    """
    if log_value == -math.inf:
        return Fraction(0)
    if abs(log_value) < LARGEST_LOG:
        return Fraction(math.exp(log_value))
    return Fraction(Decimal(log_value).exp(Context(prec=17, Emin=-999_999_999, Emax=999_999_999)))


def _interval_constant(log_value: float) -> tuple[float, float]:
    """Doubles around exp(log_value), from 40 digits that are off by half a unit of the last one at most."""
    if log_value > LARGEST_LOG:
        return sys.float_info.max if log_value > 710.0 else math.exp(LARGEST_LOG) * (1 - 1e-9), math.inf
    exact = Fraction(Decimal(log_value).exp(Context(prec=40, Emin=-999_999_999, Emax=999_999_999)))
    slack = exact / 10**38
    low, high = float(exact - slack), float(exact + slack)
    low = low if Fraction(low) <= exact - slack else math.nextafter(low, 0.0)
    high = high if Fraction(high) >= exact + slack else math.nextafter(high, math.inf)
    return low, high


def _interval_add(a: Tensor, b: Tensor) -> Tensor:
    """Sum of intervals, rounded outwards only where the sum of two doubles is inexact (Knuth's two-sum)."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    # an overflow leaves NaN, that is not 0: the lower end steps back to the largest double, which is right
    low = torch.where(error[..., 0] < 0, _below(total[..., 0]), total[..., 0])
    low = torch.where(error[..., 0].isnan(), _below(total[..., 0]), low)
    high = torch.where(error[..., 1] > 0, _above(total[..., 1]), total[..., 1])
    return torch.stack([low, high], dim=-1)


def _interval_mul(a: Tensor, b: Tensor) -> Tensor:
    """Product of non-negative intervals, rounded outwards by one double unless a factor is 0 or 1."""
    product = torch.where((a == 0) | (b == 0), torch.zeros_like(a * b), a * b)
    exact = (a == 0) | (b == 0) | (a == 1) | (b == 1)
    low = torch.where(exact[..., 0], product[..., 0], _below(product[..., 0]))
    high = torch.where(exact[..., 1], product[..., 1], _above(product[..., 1]))
    return torch.stack([low, high], dim=-1)


def _below(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.full_like(x, -torch.inf)).clamp_min(0.0)


def _above(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.full_like(x, torch.inf))


def _dual_mul(a: Tensor, b: Tensor) -> Tensor:
    value = a[..., :1] * b[..., :1]
    return torch.cat([value, a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:]], dim=-1)


def _points(x: Any) -> Tensor:
    """Each number as the interval from it to itself."""
    x = torch.as_tensor(x, dtype=torch.float64)
    return torch.stack([x, x], dim=-1)


REAL = Semiring(
    "real", operator.add, operator.mul, 0, 1, _real_constant, tensors="float64",
    add_all=lambda x: x.sum(dim=1), mul_all=lambda x: x.prod(dim=1),
)  # fmt: skip
"""Numbers with + and *: the weighted model count. Works on tensors, floats, ints."""
LOG = Semiring(
    "log", _on(torch.logaddexp, _log_add), operator.add, -math.inf, 0.0, lambda c: c, tensors="float64",
    add_all=lambda x: torch.logsumexp(x, dim=1), mul_all=lambda x: x.sum(dim=1),
)  # fmt: skip
"""Logs of non-negative numbers: the log weighted model count."""
MAX_PRODUCT = Semiring(
    "max-product", _on(torch.maximum, max), operator.mul, 0, 1, _real_constant, True, tensors="float64",
    add_all=lambda x: x.amax(dim=1), mul_all=lambda x: x.prod(dim=1),
)  # fmt: skip
"""Non-negative numbers with max and *: the weight of the best world."""
MAX_LOG = Semiring(
    "max-log", _on(torch.maximum, max), operator.add, -math.inf, 0.0, lambda c: c, True, tensors="float64",
    add_all=lambda x: x.amax(dim=1), mul_all=lambda x: x.sum(dim=1),
)  # fmt: skip
"""Logs with max and + (tropical): the log weight of the best world."""
MIN_PLUS = Semiring(
    "min-plus", _on(torch.minimum, min), operator.add, math.inf, 0, lambda c: -c, True, tensors="float64",
    add_all=lambda x: x.amin(dim=1), mul_all=lambda x: x.sum(dim=1),
)  # fmt: skip
"""Costs with min and +: the cheapest world. With weights 1 for true and 0 for false: the fewest true predicates."""
BOOLEAN = Semiring(
    "boolean", _on(torch.logical_or, operator.or_), _on(torch.logical_and, operator.and_), False, True,
    lambda c: True, True, add_all=lambda x: x.any(dim=1), mul_all=lambda x: x.all(dim=1),
)  # fmt: skip
"""Truth values with OR and AND: is there a world? A literal that is False is ruled out."""
COUNTING = Semiring("counting", operator.add, operator.mul, 0, 1, lambda c: 1, tensors="none")
"""Python ints, which never wrap: worlds that are possible; constants other than 0 count 1."""
RATIONAL = Semiring("rational", operator.add, operator.mul, Fraction(0), Fraction(1), exact_constant, tensors="none")
"""Fractions: exact weighted model counts; constants are taken as :func:`exact_constant`."""
INTERVAL = Semiring(
    "interval", _interval_add, _interval_mul, (0.0, 0.0), (1.0, 1.0), _interval_constant, vector=True, tensors="float64"
)
"""Pairs [..., 2] of lower and upper ends, 0 <= lower <= upper < inf: an enclosure of the weighted model count for all
weights within the ends, true in spite of rounding. Needs a device that keeps subnormal numbers."""
DUAL = Semiring(
    "dual", operator.add, _dual_mul, (0.0,), (1.0,), lambda c: (_real_constant(c),), vector=True, tensors="float64"
)
"""Vectors [..., 1+k]: a value with k directional derivatives (gradient semiring); see :func:`dual`."""

REAL_TO_LOG = Morphism(REAL, LOG, _on(torch.log, lambda x: math.log(x) if x > 0 else -math.inf), True)
LOG_TO_REAL = Morphism(LOG, REAL, _on(torch.exp, math.exp), True)
REAL_TO_MAX_PRODUCT = Morphism(REAL, MAX_PRODUCT, lambda x: x, False)
MAX_PRODUCT_TO_MAX_LOG = Morphism(MAX_PRODUCT, MAX_LOG, REAL_TO_LOG.map, True)
LOG_TO_MAX_LOG = Morphism(LOG, MAX_LOG, lambda x: x, False)
REAL_TO_BOOLEAN = Morphism(REAL, BOOLEAN, lambda x: x > 0, True)
REAL_TO_INTERVAL = Morphism(REAL, INTERVAL, _points, False)
"""Not a homomorphism, because of rounding: the value in the target encloses the value in the source."""
REAL_TO_RATIONAL = Morphism(REAL, RATIONAL, Fraction, False)
"""The exact value of each double; the sum and product of doubles round, those of their images do not."""
COUNTING_TO_RATIONAL = Morphism(COUNTING, RATIONAL, Fraction, True)
COUNTING_TO_BOOLEAN = Morphism(COUNTING, BOOLEAN, lambda x: x > 0, True)
RATIONAL_TO_REAL = Morphism(RATIONAL, REAL, float, True)


def dual(value: Tensor, tangent: Tensor) -> Tensor:
    """Elements of :data:`DUAL`: values [...] and derivatives [..., k] -> [..., 1+k]."""
    return torch.cat([value[..., None], tangent.to(value.dtype).expand(*value.shape, -1)], dim=-1)
