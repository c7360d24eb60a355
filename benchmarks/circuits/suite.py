"""The knowledge bases of the benchmark, as clauses.

Literals are DIMACS: variable v (from 1) is ``v`` and its negation ``-v``. Class variables come first. Everything random
comes from fixed seeds, so every run sees the same clauses.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

Clauses = list[list[int]]
GTSRB = Path(__file__).resolve().parents[1] / "gtsrb" / "gtsrb43.yaml"
VARIANTS = ("both", "oneway", "exact")
"""class <-> the OR of its attributes' patterns; class -> attributes; class -> attributes and no others."""


@dataclass(frozen=True)
class Case:
    """One knowledge base.

    Attributes:
        name, family: what it is called and where it belongs.
        num_variables: variables 1..num_variables.
        clauses: the rules.
        tree: children of each node of a hierarchy, from which a vtree is made; empty for others.
        source: where the rules come from (a data set, a seed).
    """

    name: str
    family: str
    num_variables: int
    clauses: Clauses = field(repr=False)
    tree: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    source: str = "synthetic"

    def dimacs(self) -> str:
        """The clauses as a DIMACS file."""
        lines = [f"p cnf {self.num_variables} {len(self.clauses)}"]
        return "\n".join([*lines, *(" ".join(map(str, [*clause, 0])) for clause in self.clauses)]) + "\n"

    def vtree(self) -> str | None:
        """A vtree in the shape of the hierarchy: a node beside its subtrees, in libsdd's format."""
        if not self.tree:
            return None
        lines: list[str] = []

        def add(text: str) -> int:
            lines.append(f"{text[0]} {len(lines)} {text[2:]}")
            return len(lines) - 1

        top: dict[int, int] = {}
        for node in range(self.num_variables - 1, -1, -1):  # children have larger numbers
            parts = [top[child] for child in self.tree[node]]
            while len(parts) > 1:
                parts = [add(f"I {a} {b}") for a, b in zip(parts[::2], parts[1::2], strict=False)] + (
                    [parts[-1]] if len(parts) % 2 else []
                )
            leaf = add(f"L {node + 1}")
            top[node] = add(f"I {leaf} {parts[0]}") if parts else leaf
        return f"vtree {len(lines)}\n" + "\n".join(lines) + "\n"


def exactly_one(variables: Sequence[int]) -> Clauses:
    """One clause for some, and one for each pair."""
    return [list(variables), *([-a, -b] for a, b in itertools.combinations(variables, 2))]


def class_rules(name: str, table: Sequence[Sequence[int]], variant: str, source: str) -> Case:
    """Exactly one class, and for every class and attribute what ``table`` (classes x attributes, 0/1) says.

    ``oneway``: class c -> attribute a where the table has 1. ``exact``: also c -> not a where it has 0. ``both``: also
    a -> the OR of the classes that have it.
    """
    classes, attributes = len(table), len(table[0])
    clauses = exactly_one(range(1, classes + 1))
    for c, row in enumerate(table):
        for a, has in enumerate(row):
            if has or variant == "exact":
                clauses.append([-(c + 1), (1 if has else -1) * (classes + a + 1)])
    if variant == "both":
        for a in range(attributes):
            clauses.append([-(classes + a + 1), *(c + 1 for c in range(classes) if table[c][a])])
    return Case(f"{name}-{variant}", "class rules", classes + attributes, clauses, source=source)


@cache
def gtsrb_table() -> tuple[tuple[tuple[int, ...], ...], str]:
    """Which of the 45 shapes, colours and symbols each of the 43 signs shows, from the repository's rules file."""
    from neurosym.logic.knowledge import KnowledgeBase

    kb = KnowledgeBase.from_yaml(GTSRB)
    shown = {tuple(rule.text.split(" -> ")) for rule in kb.rules}
    table = tuple(tuple(int((c, a) in shown) for a in kb.concepts) for c in kb.classes)
    return table, "gtsrb43.yaml"


@cache
def awa2_table() -> tuple[tuple[tuple[int, ...], ...], str]:
    """The 50 x 85 predicate matrix of Animals with Attributes 2, or a random one with as many ones (1,562)."""
    path = Path(os.environ.get("NEUROSYM_DATA", "")) / "awa2" / "predicate-matrix-binary.txt"
    if "NEUROSYM_DATA" in os.environ and path.exists():
        rows = tuple(tuple(int(x) for x in line.split()) for line in path.read_text().splitlines() if line.strip())
        return rows, "AwA2 predicate-matrix-binary.txt"
    ones = set(random.Random(85).sample(range(50 * 85), 1562))
    return tuple(tuple(int(c * 85 + a in ones) for a in range(85)) for c in range(50)), "random, seed 85"


def hierarchy(nodes: int, closed: bool) -> Case:
    """A random tree: child -> parent, siblings exclude each other; ``closed``: also parent -> one of its children."""
    rng = random.Random(nodes)
    children: list[list[int]] = [[] for _ in range(nodes)]
    clauses: Clauses = []
    for node in range(1, nodes):
        # parents among the last third keep the tree neither a star nor a path
        parent = rng.randrange(max(0, node * 2 // 3 - 20), node)
        clauses.append([-(node + 1), parent + 1])
        clauses += [[-(node + 1), -(other + 1)] for other in children[parent]]
        children[parent].append(node)
    if closed:
        clauses += [[-(node + 1), *(child + 1 for child in kids)] for node, kids in enumerate(children) if kids]
    name = f"hierarchy-{nodes}" + ("-closed" if closed else "")
    return Case(name, "hierarchies", nodes, clauses, tuple(map(tuple, children)), f"random, seed {nodes}")


def random_cnf(variables: int, ratio: float) -> Case:
    """Random clauses of three different variables."""
    rng = random.Random(f"{variables} {ratio}")
    clauses = [
        [v if rng.random() < 0.5 else -v for v in rng.sample(range(1, variables + 1), 3)]
        for _ in range(round(variables * ratio))
    ]
    return Case(f"3cnf-{variables}-{ratio:g}", "random 3-CNF", variables, clauses, source="random, seeded by name")


def grid(rows: int, columns: int) -> Case:
    """Independent sets of a grid: no two neighbours."""
    number = [[r * columns + c + 1 for c in range(columns)] for r in range(rows)]
    clauses = [[-number[r][c], -number[r][c + 1]] for r in range(rows) for c in range(columns - 1)]
    clauses += [[-number[r][c], -number[r + 1][c]] for r in range(rows - 1) for c in range(columns)]
    return Case(f"grid-{rows}x{columns}", "grids", rows * columns, clauses, source="formula")


def exactly_k(variables: int, k: int) -> Case:
    """Exactly k of the variables, without extra variables: no k + 1 true, no n - k + 1 false."""
    clauses = [[-v for v in chosen] for chosen in itertools.combinations(range(1, variables + 1), k + 1)]
    clauses += [list(chosen) for chosen in itertools.combinations(range(1, variables + 1), variables - k + 1)]
    return Case(f"exactly-{k}-of-{variables}", "exactly k", variables, clauses, source="formula")


def makers() -> dict[str, Callable[[], Case]]:
    """How to build each case, by name; nothing is built yet."""
    found: dict[str, Callable[[], Case]] = {}
    for variant in VARIANTS:
        found[f"gtsrb43-{variant}"] = lambda v=variant: class_rules("gtsrb43", gtsrb_table()[0], v, gtsrb_table()[1])  # type: ignore[misc]
        found[f"awa2-{variant}"] = lambda v=variant: class_rules("awa2", awa2_table()[0], v, awa2_table()[1])  # type: ignore[misc]
    for nodes in (100, 300, 1000, 3000):
        found[f"hierarchy-{nodes}"] = lambda n=nodes: hierarchy(n, False)  # type: ignore[misc]
        found[f"hierarchy-{nodes}-closed"] = lambda n=nodes: hierarchy(n, True)  # type: ignore[misc]
    for variables, ratios in ((30, (1.5, 3.0, 4.2)), (50, (1.5, 3.0, 4.2)), (75, (1.5, 3.0))):
        for ratio in ratios:
            found[f"3cnf-{variables}-{ratio:g}"] = lambda v=variables, r=ratio: random_cnf(v, r)  # type: ignore[misc]
    for side in (6, 10):
        found[f"grid-{side}x{side}"] = lambda s=side: grid(s, s)  # type: ignore[misc]
    for variables, k in ((12, 3), (16, 4)):
        found[f"exactly-{k}-of-{variables}"] = lambda n=variables, c=k: exactly_k(n, c)  # type: ignore[misc]
    # small cases of the quick mode, each with few enough variables for enumeration
    found["tiny-classes"] = lambda: class_rules("tiny", [[1, 0, 1], [0, 1, 1], [1, 1, 0]], "oneway", "by hand")
    found["tiny-hierarchy"] = lambda: hierarchy(12, True)
    return found


QUICK = ("tiny-classes", "tiny-hierarchy")
EVALUATED = (
    "gtsrb43-both", "gtsrb43-oneway", "awa2-exact", "awa2-oneway", "hierarchy-100", "hierarchy-1000",
    "3cnf-30-1.5", "3cnf-50-1.5", "3cnf-50-3", "grid-6x6", "exactly-4-of-16",
)  # fmt: skip
"""Cases whose circuits are timed; the others are only compiled."""


def case(name: str) -> Case:
    """A case by name.

    Raises:
        KeyError: unknown.
    """
    return replace(makers()[name](), name=name)
