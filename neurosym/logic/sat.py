"""A small satisfiability check for the hard part of a knowledge base.

Davis-Putnam-Logemann-Loveland search with unit propagation over two watched literals, iterative, within a number of
steps; past it the clauses go to a decision diagram (pysdd) within a number of nodes. Rule sets are easy: nearly
all are settled by propagation. Sources: Davis, Logemann, Loveland 1962; Moskewicz et al. 2001 (watched literals).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence

from neurosym.logic.cnf import Clause

MAX_STEPS = 300_000
"""Literals propagated before the search gives up: a second or two."""
MAX_NODES = 200_000
MAX_SECONDS = 10.0


class StepLimit(Exception):
    """The search took more steps than allowed."""


def satisfiable(clauses: Sequence[Clause], max_steps: int = MAX_STEPS) -> bool | None:
    """Whether some assignment satisfies all clauses; None if neither search nor diagram could tell in bounds."""
    try:
        return find_model(clauses, max_steps) is not None
    except StepLimit:
        return _satisfiable_by_diagram(clauses)


def find_model(clauses: Sequence[Clause], max_steps: int = MAX_STEPS) -> frozenset[int] | None:
    """Literals of a satisfying assignment (of the variables that occur), or None if there is none.

    Raises:
        StepLimit: undecided after ``max_steps`` propagated literals.
    """
    search = _Search(clauses, max_steps)
    return frozenset(search.trail) if search.run() else None


class _Search:
    """Depth-first search. ``trail`` holds the true literals in the order in which they were set."""

    def __init__(self, clauses: Sequence[Clause], max_steps: int) -> None:
        self.steps = max_steps
        self.trail: list[int] = []
        self.true: set[int] = set()
        self.done = 0  # literals of the trail whose consequences have been drawn
        self.decisions: list[tuple[int, bool]] = []  # (length of the trail before it, is it the second branch)
        self.watched: dict[int, list[list[int]]] = {}
        self.failed = False
        count: Counter[int] = Counter()
        for literals in map(dict.fromkeys, clauses):
            clause = list(literals)
            count.update(clause)
            if any(-literal in literals for literal in literals):
                continue
            if len(clause) < 2:
                self.failed |= not clause or not self._set(clause[0])
                continue
            for literal in clause[:2]:
                self.watched.setdefault(literal, []).append(clause)
        # most frequent variable first, its more frequent sign first
        best = sorted(count, key=lambda literal: (-count[literal] - count[-literal], -count[literal], literal))
        self.order = list({abs(literal): literal for literal in reversed(best)}.values())[::-1]

    def run(self) -> bool:
        """Search; True leaves a full assignment in ``trail``."""
        if self.failed:
            return False
        start = [0]  # where to look for an unset variable, by decision
        while True:
            if not self._propagate():
                if not self._backtrack(start):
                    return False
                continue
            position = start[-1]
            while position < len(self.order) and not self._free(self.order[position]):
                position += 1
            if position == len(self.order):
                return True
            self.decisions.append((len(self.trail), False))
            start.append(position)
            self._set(self.order[position])

    def _free(self, literal: int) -> bool:
        return literal not in self.true and -literal not in self.true

    def _set(self, literal: int) -> bool:
        """Make a literal true; False if it is false already."""
        if -literal in self.true:
            return False
        if literal not in self.true:
            self.true.add(literal)
            self.trail.append(literal)
        return True

    def _backtrack(self, start: list[int]) -> bool:
        """Undo up to the last decision with an untried branch and take that branch; False if there is none."""
        while self.decisions:
            length, second = self.decisions.pop()
            decided = self.trail[length]
            self.true.difference_update(self.trail[length:])
            del self.trail[length:]
            self.done = length
            if not second:
                self.decisions.append((length, True))
                self._set(-decided)
                return True
            start.pop()
        return False

    def _propagate(self) -> bool:
        """Draw the consequences of the trail; False on a conflict."""
        while self.done < len(self.trail):
            literal = self.trail[self.done]
            self.done += 1
            self.steps -= 1
            if self.steps < 0:
                raise StepLimit
            if not self._falsify(-literal):
                return False
        return True

    def _falsify(self, literal: int) -> bool:
        """Visit the clauses that watch a literal that has become false."""
        clauses = self.watched.get(literal, [])
        kept: list[list[int]] = []
        for i, clause in enumerate(clauses):
            if clause[0] == literal:
                clause[0], clause[1] = clause[1], clause[0]
            if clause[0] not in self.true:
                for k in range(2, len(clause)):
                    if -clause[k] not in self.true:
                        clause[1], clause[k] = clause[k], clause[1]
                        self.watched.setdefault(clause[1], []).append(clause)
                        break
                else:
                    if not self._set(clause[0]):
                        self.watched[literal] = kept + clauses[i:]
                        return False
                    kept.append(clause)
                continue
            kept.append(clause)
        self.watched[literal] = kept
        return True


def _satisfiable_by_diagram(clauses: Iterable[Clause]) -> bool | None:
    """Conjoin the clauses in a sentential decision diagram, unless it grows too large or takes too long."""
    from pysdd.sdd import SddManager

    clauses = list(clauses)
    number = {v: i + 1 for i, v in enumerate(sorted({abs(literal) for clause in clauses for literal in clause}))}
    manager = SddManager(var_count=max(1, len(number)), auto_gc_and_minimize=False)
    node = manager.true()
    limit = time.monotonic() + MAX_SECONDS
    # clauses over low variables first, so that the diagram grows along its variable order
    for clause in sorted(clauses, key=lambda c: max(map(abs, c), default=0)):
        part = manager.false()
        for literal in clause:
            part = part | manager.literal(number[abs(literal)] * (1 if literal > 0 else -1))
        node = node & part
        if node.is_false():
            return False
        if manager.count() > MAX_NODES or time.monotonic() > limit:
            return None
    return True
