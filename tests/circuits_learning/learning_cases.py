"""Knowledge bases of the tests and brute force over their worlds: numpy, no circuit."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / name) for name in ("oracles", "circuits")]

import worlds as oracle  # noqa: E402

from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, CircuitIR  # noqa: E402
from neurosym.logic.knowledge import Group, KnowledgeBase, Rule  # noqa: E402
from neurosym.logic.parser import parse  # noqa: E402

INF = math.inf


def knowledge(
    rules: list[tuple[str, float]], classes: str, concepts: str = "", groups: tuple[Group, ...] = ()
) -> KnowledgeBase:
    items = tuple(Rule(parse(text), weight) for text, weight in rules)
    return KnowledgeBase(tuple(classes.split()), tuple(concepts.split()), items, groups)


ONE_OF_ABC = Group("g", "exactly_one", ("a", "b", "c"))

HARD = {
    "hierarchy": knowledge([("a -> k", INF), ("b -> k", INF), ("k -> m", INF), ("c -> m", INF)], "a b c", "k m"),
    "classes": knowledge([("a -> k & ~l", INF), ("b -> l", INF)], "a b c", "k l m", (ONE_OF_ABC,)),
    "cycle": knowledge([("a | b", INF), ("b | c", INF), ("c | d", INF), ("d | ~a", INF)], "a b c d"),
    "blocks": knowledge([("a <-> b", INF), ("c -> ~d", INF)], "a b c d", "e"),
    "branch": knowledge(
        [("a -> x", INF), ("f -> ~x | y", INF)],
        "a b c d e f",
        "x y",
        (Group("g", "exactly_one", ("a", "b", "c", "d", "e", "f")),),
    ),
}

SIX = tuple("abcdef")
MIXTURE = knowledge([("a -> k & ~l", INF), ("b -> l", INF)], " ".join(SIX), "k l", (Group("g", "exactly_one", SIX),))
"""Six classes; a fixes both concepts, b one, and the others none."""


def log_weights(kb: KnowledgeBase) -> np.ndarray:
    """Log factor of every world of the whole knowledge base, [2^V]."""
    return oracle.log_factor(kb, tuple(range(len(kb.rules))), kb.groups)


def likelihoods(kb: KnowledgeBase, p: np.ndarray) -> np.ndarray:
    """Unnormalised weight of every world for sensor probabilities [V], [2^V]."""
    grid = oracle.worlds(kb.num_predicates)
    return np.where(grid, p, 1 - p).prod(axis=1) * np.exp(log_weights(kb))


def legal_worlds(kb: KnowledgeBase) -> np.ndarray:
    """Worlds that obey the hard rules, bool[n, V]."""
    return oracle.worlds(kb.num_predicates)[log_weights(kb) > -INF]


def matches(grid: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which worlds agree with values 0, 1 and -1 (unknown), bool[n]."""
    return ((known < 0) | (grid == (known > 0))).all(axis=1)


def value(ir: CircuitIR, world: np.ndarray, constants: np.ndarray) -> float:
    """Value of a circuit at one world for given constants (in the order of the circuit), node by node."""
    found: list[float] = []
    left = list(constants[::-1])
    for node in range(ir.num_nodes):
        kids = [found[child] for child in ir.children_of(node)]
        if ir.kind[node] == LITERAL:
            signed = int(ir.literal[node])
            found.append(float(bool(world[abs(signed) - 1]) == (signed > 0)))
        elif ir.kind[node] == CONSTANT:
            found.append(left.pop())
        else:
            found.append(math.prod(kids) if ir.kind[node] == PRODUCT else sum(kids))
    return found[-1]


def table(ir: CircuitIR, constants: np.ndarray) -> np.ndarray:
    """Value of a circuit at every world, [2^m]."""
    return np.array([value(ir, world, constants) for world in oracle.worlds(ir.num_variables)])


def random_parameters(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positive parameters that add up to 1 in each group, [C]."""
    raw = rng.uniform(0.2, 2.0, size=groups.size)
    return raw / np.bincount(groups, raw)[groups]
