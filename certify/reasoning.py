"""The reasoning layer as the conformal methods see it: predicate probabilities in, class probabilities out.

Point and interval versions of one function, so that what is certified is what is evaluated. ``circuit="none"`` takes
the class columns as they are; ``"rules"`` is COLEP's mixture of circuits (Kang et al. 2024); ``"exclusive"`` is one
circuit with exactly one class true. Scores are nonconformities of the resulting class probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neurosym.certify.evidence import ClassKind
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.logic.knowledge import KnowledgeBase

Circuit = Literal["none", "rules", "exclusive"]
Bound = Literal["exact", "decoupled"]
CIRCUITS = ("none", "rules", "exclusive")
ROWS = 1 << 15  # rows evaluated at once by a circuit
# Circuits are monotone in exact arithmetic; floating point may break that in the last places. Bounds of reasoned
# probabilities are therefore widened by SLACK, a thousand times the rounding error of a well-conditioned circuit.
SLACK = 1e-10


@dataclass(frozen=True)
class Reasoning:
    """Corrected class probabilities of one knowledge base, or none at all.

    Attributes:
        kb: knowledge base; None only for ``circuit="none"`` (then the classes come from the evidence).
        circuit: ``"none"``, ``"rules"`` or ``"exclusive"``.
        class_kind: ``"binary"`` (a sensor for each class) or ``"categorical"`` (class columns are one softmax).
        scale: factor on every finite rule weight.
        num_classes: K without a knowledge base; 0 stands for all columns.
    """

    kb: KnowledgeBase | None = None
    circuit: Circuit = "none"
    class_kind: ClassKind = "binary"
    scale: float = 1.0
    num_classes: int = 0

    def __post_init__(self) -> None:
        if self.circuit not in CIRCUITS:
            raise InputError(f"circuit: {self.circuit!r}; choose one of {', '.join(CIRCUITS)}")
        if self.circuit != "none" and self.kb is None:
            raise InputError(f"circuit: {self.circuit!r} needs rules; give a knowledge base or circuit 'none'")
        if not (np.isfinite(self.scale) and self.scale >= 0):
            raise InputError(f"scale: {self.scale} is not a finite number >= 0")
        if self.kb is not None:
            object.__setattr__(self, "num_classes", self.kb.num_classes)

    @property
    def simplex(self) -> bool:
        """Whether class probabilities sum to one, which K-ary APS, RAPS and SAPS need."""
        return self.circuit == "exclusive" or (self.circuit == "none" and self.class_kind == "categorical")

    @cached_property
    def compiled(self) -> Any:
        """The compiled circuits (``neurosym.circuits.CompiledKnowledge``)."""
        from neurosym.circuits import compile as compile_circuit

        if self.kb is None or self.circuit == "none":
            raise InputError("circuit 'none' has nothing to compile")
        return compile_circuit(self.kb.scaled(self.scale), circuit=self.circuit, class_kind=self.class_kind)

    def describe(self, bound: str = "exact") -> dict[str, str | float]:
        """What a certificate records of this layer."""
        return {
            "circuit": self.circuit,
            "class_kind": self.class_kind,
            "scale": float(self.scale),
            "bound": bound,
        }

    @classmethod
    def from_description(
        cls, description: Mapping[str, str | float], kb: KnowledgeBase | None, num_classes: int = 0
    ) -> Reasoning:
        """Inverse of :meth:`describe`; ``kb`` as it was before scaling."""
        circuit, kind = str(description["circuit"]), str(description["class_kind"])
        return cls(kb, circuit, kind, float(description["scale"]), num_classes)  # type: ignore[arg-type]

    def columns(self, predicates: Sequence[str]) -> np.ndarray | None:
        """Columns of the evidence in the order of the knowledge base; None when they already are.

        Raises:
            InputError: a predicate of the rules has no column, or the classes are not the first columns in order.
        """
        if self.kb is None:
            return None
        names = tuple(predicates)
        classes = self.kb.classes
        if names[: len(classes)] != classes:
            raise InputError(
                f"field 'predicates': the first {len(classes)} are {', '.join(names[: len(classes)])}; "
                f"they must be the classes of the rules in their order: {', '.join(classes)}"
            )
        if self.circuit == "none" or names == self.kb.predicates:
            return None
        place = {name: i for i, name in enumerate(names)}
        missing = [name for name in self.kb.predicates if name not in place]
        if missing:
            raise InputError(f"field 'predicates': no column for {missing[0]!r}, which the rules know; add it")
        return np.array([place[name] for name in self.kb.predicates])

    def class_probabilities(self, p: np.ndarray) -> np.ndarray:
        """Class probabilities, float64 ``[..., V]`` -> ``[..., K]``.

        A categorical row whose class columns are all 0 gets 0 for every class.

        Raises:
            InconsistentEvidence: hard rules leave no world for a row.
        """
        p = np.asarray(p, dtype=np.float64)
        if self.circuit == "none":
            classes = p[..., : self.num_classes or p.shape[-1]]
            return _normalised(classes, classes) if self.class_kind == "categorical" else classes
        import torch

        from neurosym.circuits import marginals

        flat = p.reshape(-1, p.shape[-1])
        out = np.empty((flat.shape[0], self.num_classes))
        with torch.no_grad():
            for start in range(0, flat.shape[0], ROWS):
                block = torch.from_numpy(np.ascontiguousarray(flat[start : start + ROWS]))
                out[start : start + ROWS] = marginals(self.compiled, block)[:, : self.num_classes].numpy()
        return out.reshape(*p.shape[:-1], self.num_classes)

    def class_bounds(
        self, lower: np.ndarray, upper: np.ndarray, bound: Bound = "exact"
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bounds of the class probabilities over boxes, ``[..., V]`` -> three arrays ``[..., K]``.

        Returns:
            lower, upper, and whether each pair is attained (up to ``SLACK``, by which circuits are widened).
        """
        lower, upper = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
        if self.circuit == "none":
            width = self.num_classes or lower.shape[-1]
            least, most = lower[..., :width], upper[..., :width]
            if self.class_kind == "categorical":
                least, most = _normalised(least, most), _normalised(most, least)
            return least, most, np.ones(least.shape, dtype=bool)
        import torch

        from neurosym.circuits import bounds

        width = self.num_classes
        flat_low, flat_high = lower.reshape(-1, lower.shape[-1]), upper.reshape(-1, upper.shape[-1])
        out = np.empty((3, flat_low.shape[0], width))
        with torch.no_grad():
            for start in range(0, flat_low.shape[0], ROWS):
                rows = slice(start, start + ROWS)
                low, high = (torch.from_numpy(np.ascontiguousarray(side[rows])) for side in (flat_low, flat_high))
                found = bounds(self.compiled, low, high, bound=bound)
                for i, side in enumerate((found.lower, found.upper, found.exact)):
                    out[i, rows] = side[:, :width].numpy()
        shape = (*lower.shape[:-1], width)
        least, most = np.maximum(out[0] - SLACK, 0.0), np.minimum(out[1] + SLACK, 1.0)
        return least.reshape(shape), most.reshape(shape), (out[2] > 0).reshape(shape)

    @cached_property
    def directions(self) -> np.ndarray | None:
        """``int8[K, V]``, see :mod:`neurosym.certify.directions`; None for ``circuit="none"``."""
        if self.kb is None or self.circuit == "none":
            return None
        from neurosym.certify import directions

        width, classes = self.kb.num_predicates, self.kb.num_classes
        parts = []
        for part in self.compiled.parts:
            factors = [f for component in part.components for f in component.factors]
            if self.circuit == "exclusive":  # the choice of one class is what the exclusive form starts from
                factors = [f for f in factors if f.group is None or tuple(f.scope) != tuple(range(classes))]
            tables = [f.log_table() if len(f.scope) <= directions.MAX_SCOPE else None for f in factors]
            parts.append(([f.scope for f in factors], tables))
        if self.circuit == "exclusive":
            return directions.exclusive_directions(*parts[0], classes, width)
        return directions.rules_directions(parts, classes, width)


def _normalised(mine: np.ndarray, others: np.ndarray) -> np.ndarray:
    """``mine_y / (mine_y + sum over k != y of others_k)``; 0/0 is 0."""
    rest = others.sum(axis=-1, keepdims=True) - others
    total = mine + np.maximum(rest, 0.0)
    return np.divide(mine, total, out=np.zeros_like(total), where=total > 0.0)
