"""Exact answers: model counts as Python ints, weighted counts and marginals as fractions, on the same circuits.

The circuit is smooth and decomposable, so every world uses exactly one literal of each variable. Literal weights are
therefore brought to one denominator per variable, the circuit is evaluated in integers, and the product of the
denominators divides the result once: no greatest common divisors on the way (constants other than 0 and 1, from soft
rules, do bring fractions back).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from torch import Tensor

from neurosym.circuits.circuit import Circuit
from neurosym.circuits.compile import as_compiled
from neurosym.circuits.component import CircuitName, ClassKind, CompiledKnowledge, Component, Part
from neurosym.circuits.errors import InconsistentEvidence
from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, CircuitIR
from neurosym.circuits.queries.algebraic import node_values
from neurosym.circuits.queries.evidence import select_part
from neurosym.circuits.queries.joined import as_ir
from neurosym.circuits.queries.levels import require_all_variables
from neurosym.circuits.queries.semirings import COUNTING, RATIONAL, Semiring, exact_constant
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase

Number = int | float | Fraction
Constants = Callable[[float], Number] | Sequence[Number]


def model_count(
    target: KnowledgeBase | CompiledKnowledge | Component | Circuit | CircuitIR,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
) -> int:
    """Number of possible worlds, exact whatever its size.

    A world is possible unless it violates a hard rule or a group; violating a soft rule (of whatever finite weight)
    keeps it possible. Predicates that no rule mentions count 2 each.

    Raises:
        InputError: several parts and none named; a variable that does not occur in a circuit.
    """
    if isinstance(target, KnowledgeBase | CompiledKnowledge):
        compiled = as_compiled(target, circuit, class_kind)
        chosen = select_part(compiled, part)
        inside = sum(len(component.variables) for component in chosen.components)
        total = 0 if chosen.log_constant == -math.inf else 1 << (compiled.kb.num_predicates - inside)
        for component in chosen.components:
            total *= model_count(component)
        return total
    ir = as_ir(target, circuit, class_kind, part)
    require_all_variables(ir)
    ones = [1] * ir.num_variables
    return int(node_values(ir, COUNTING, ones, ones, _support(ir))[-1])


def _support(ir: CircuitIR) -> list[int]:
    return [int(c > -np.inf) for c in ir.log_constant[ir.kind == CONSTANT]]


@dataclass(frozen=True)
class SemiringDerivatives:
    """The value of a circuit and its derivatives in a semiring.

    Attributes:
        value: the semiring sum over all worlds.
        on, off: for every variable, the sum over worlds where it is true (false) without its own literal's weight.
        constants: the same for every constant node, in the circuit's order.
    """

    value: Any
    on: tuple[Any, ...]
    off: tuple[Any, ...]
    constants: tuple[Any, ...]


def semiring_derivatives(
    target: Circuit | CircuitIR,
    semiring: Semiring,
    pos: Sequence[Any],
    neg: Sequence[Any],
    constants: Sequence[Any] | None = None,
) -> SemiringDerivatives:
    """Value and all derivatives without division: two passes, products of siblings by prefixes and suffixes.

    In :data:`COUNTING` ``on[j]`` is the number of models with x_j true, in :data:`MAX_PRODUCT` the best world's weight
    with x_j true (max-marginals), in :data:`BOOLEAN` whether there is one (the backbone).

    Args:
        pos, neg: elements, one for each variable; a tensor as an element is worked on elementwise.
        constants: elements for the constant nodes; by default through the semiring's ``from_log``.

    Raises:
        InputError: wrong lengths, a variable that does not occur.
    """
    ir = target.ir if isinstance(target, Circuit) else target
    require_all_variables(ir)
    _check_length(ir, pos, neg)
    where = np.flatnonzero(ir.kind == CONSTANT)
    if constants is None:
        constants = [semiring.constant(float(c)) for c in ir.log_constant[where]]
    values = node_values(ir, semiring, pos, neg, constants)
    slopes = _slopes(ir, semiring, values)
    on, off = [semiring.zero] * ir.num_variables, [semiring.zero] * ir.num_variables
    for node in np.flatnonzero(ir.kind == LITERAL):
        literal = int(ir.literal[node])
        (on if literal > 0 else off)[abs(literal) - 1] = slopes[node]
    return SemiringDerivatives(values[-1], tuple(on), tuple(off), tuple(slopes[node] for node in where))


def _slopes(ir: CircuitIR, semiring: Semiring, values: Sequence[Any]) -> list[Any]:
    """Derivative of the root with respect to every node."""
    slopes: list[Any] = [None] * ir.num_nodes
    slopes[-1] = semiring.one
    for node in range(ir.num_nodes - 1, -1, -1):
        above = slopes[node]
        children = ir.children_of(node).tolist()
        if above is None or not children:
            continue
        handed = [above] * len(children)
        if ir.kind[node] == PRODUCT:
            prefix = above
            for place, child in enumerate(children):
                handed[place] = prefix
                prefix = semiring.mul(prefix, values[child])
            suffix = values[children[-1]]
            for place in range(len(children) - 2, -1, -1):
                handed[place] = semiring.mul(handed[place], suffix)
                suffix = semiring.mul(suffix, values[children[place]])
        for child, slope in zip(children, handed, strict=True):
            slopes[child] = slope if slopes[child] is None else semiring.add(slopes[child], slope)
    return [semiring.zero if slope is None else slope for slope in slopes]


def _check_length(ir: CircuitIR, pos: Sequence[Any], neg: Sequence[Any]) -> None:
    for name, weights in (("pos", pos), ("neg", neg)):
        if len(weights) != ir.num_variables:
            raise InputError(f"{name} has {len(weights)} weights; the circuit has {ir.num_variables} variables")


def circuit_exact_wmc(
    target: Circuit | CircuitIR,
    pos: Sequence[Number] | Tensor,
    neg: Sequence[Number] | Tensor,
    constants: Constants = exact_constant,
) -> Fraction:
    """Exact weighted model count of a circuit.

    Args:
        pos, neg: m weights of any sign; floats and float64 tensors [m] count with their exact value.
        constants: a function from the log of a constant to its exact value, or the values of all constant nodes.

    Raises:
        InputError: wrong lengths, weights that are not finite, a variable that does not occur.
    """
    ir = target.ir if isinstance(target, Circuit) else target
    require_all_variables(ir)
    on, off, scale = _integers(ir, pos, neg)
    return Fraction(node_values(ir, RATIONAL, on, off, _constants(ir, constants))[-1]) / scale


def circuit_exact_marginals(
    target: Circuit | CircuitIR,
    pos: Sequence[Number] | Tensor,
    neg: Sequence[Number] | Tensor,
    constants: Constants = exact_constant,
) -> tuple[Fraction, ...]:
    """Exact P(x_j = 1) for every variable; arguments as for :func:`circuit_exact_wmc`.

    Raises:
        InputError: as there.
        InconsistentEvidence: the count is 0.
    """
    ir = target.ir if isinstance(target, Circuit) else target
    on, off, _ = _integers(ir, pos, neg)
    found = semiring_derivatives(ir, RATIONAL, on, off, _constants(ir, constants))
    if found.value == 0:
        raise InconsistentEvidence(0, "the circuit")
    return tuple(Fraction(weight * slope) / found.value for weight, slope in zip(on, found.on, strict=True))


def _constants(ir: CircuitIR, constants: Constants) -> list[Number]:
    logs = [float(c) for c in ir.log_constant[ir.kind == CONSTANT]]
    if not callable(constants):
        if len(constants) != len(logs):
            raise InputError(f"constants has {len(constants)} entries; the circuit has {len(logs)} constants")
        found = [Fraction(c) for c in constants]
    else:
        found = [Fraction(constants(c)) for c in logs]
    # plain ints keep a circuit of hard rules in integer arithmetic
    return [int(c) if c.denominator == 1 else c for c in found]


def fractions_of(weights: Sequence[Number] | Tensor, what: str) -> list[Fraction]:
    """Exact values of weights.

    Raises:
        InputError: names the first that is not finite.
    """
    numbers = weights.detach().tolist() if isinstance(weights, Tensor) else list(weights)
    for place, number in enumerate(numbers):
        if isinstance(number, list):
            raise InputError(f"{what} has several rows; exact answers are made for one row at a time")
        if isinstance(number, float) and not math.isfinite(number):
            raise InputError(f"{what}: weight {place} is {number}; exact arithmetic needs finite weights")
    return [Fraction(number) for number in numbers]


def _integers(
    ir: CircuitIR, pos: Sequence[Number] | Tensor, neg: Sequence[Number] | Tensor
) -> tuple[list[int], list[int], int]:
    """Weights times one denominator per variable, and the product of the denominators."""
    on, off = fractions_of(pos, "pos"), fractions_of(neg, "neg")
    _check_length(ir, on, off)
    scale = [math.lcm(a.denominator, b.denominator) for a, b in zip(on, off, strict=True)]
    whole = [[int(w * s) for w, s in zip(weights, scale, strict=True)] for weights in (on, off)]
    return whole[0], whole[1], math.prod(scale)


def exact_wmc(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Sequence[Number] | Tensor,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
    constants: Callable[[float], Number] = exact_constant,
) -> Fraction:
    """Exact weighted model count of one row: :func:`neurosym.circuits.log_wmc` without rounding.

    Args:
        p: V probabilities; a float counts with its exact value, and its negation with exactly one minus that.
        constants: exact value of a constant from its log (of a violated rule: minus its weight).

    Raises:
        InputError: wrong length, values outside [0, 1]; several parts and none named.
    """
    compiled = as_compiled(knowledge, circuit, class_kind)
    chosen = select_part(compiled, part)
    pos, neg = _literal_weights(compiled, p)
    total = Fraction(constants(chosen.log_constant)) * _free_mass(chosen, pos, neg)
    for component in chosen.components:
        total *= circuit_exact_wmc(component.ir, *_take(component, pos, neg), constants)
    return total


def exact_marginals(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Sequence[Number] | Tensor,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
    constants: Callable[[float], Number] = exact_constant,
) -> tuple[Fraction, ...]:
    """Exact P(predicate) in one part, V fractions; arguments as for :func:`exact_wmc`.

    Raises:
        InputError: as there.
        InconsistentEvidence: no world of positive probability.
    """
    compiled = as_compiled(knowledge, circuit, class_kind)
    chosen = select_part(compiled, part)
    pos, neg = _literal_weights(compiled, p)
    if chosen.log_constant == -math.inf or _free_mass(chosen, pos, neg) == 0:
        raise InconsistentEvidence(0, f"circuit {chosen.name!r}")
    found = [a / (a + b) if a + b else Fraction(0) for a, b in zip(pos, neg, strict=True)]
    for component in chosen.components:
        try:
            own = circuit_exact_marginals(component.ir, *_take(component, pos, neg), constants)
        except InconsistentEvidence:
            raise InconsistentEvidence(0, f"circuit {chosen.name!r}") from None
        for v, q in zip(component.variables, own, strict=True):
            found[v] = q
    return tuple(found)


def _literal_weights(
    compiled: CompiledKnowledge, p: Sequence[Number] | Tensor
) -> tuple[list[Fraction], list[Fraction]]:
    pos = fractions_of(p, "p")
    if len(pos) != compiled.kb.num_predicates:
        raise InputError(f"p has {len(pos)} entries; there are {compiled.kb.num_predicates} predicates")
    for column, value in enumerate(pos):
        if not 0 <= value <= 1:
            raise InputError(f"p: column {column} is {value}; probabilities lie in [0, 1]")
    one_sided = compiled.circuit == "exclusive" and compiled.class_kind == "categorical"
    classes = compiled.kb.num_classes if one_sided else 0
    return pos, [Fraction(1) if v < classes else 1 - q for v, q in enumerate(pos)]


def _take(
    component: Component, pos: Sequence[Fraction], neg: Sequence[Fraction]
) -> tuple[list[Fraction], list[Fraction]]:
    return [pos[v] for v in component.variables], [neg[v] for v in component.variables]


def _free_mass(part: Part, pos: Sequence[Fraction], neg: Sequence[Fraction]) -> Fraction:
    inside = {v for component in part.components for v in component.variables}
    return math.prod(
        (a + b for v, (a, b) in enumerate(zip(pos, neg, strict=True)) if v not in inside), start=Fraction(1)
    )
