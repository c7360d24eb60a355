"""Seconds of exact bounds on one thread, as JSON: random rule sets with 10 to 20 interval sensors, and AwA2 in closed form.

    NEUROSYM_DATA=DIR python benchmarks/circuits/bounds.py [--quick]

A query is one row and one target, both ends. ``seconds`` are per query with a batch of rows amortised: one number for each
rule set, of which median and 95th percentile are given; processor seconds beside them, for machines that are shared. ``--quick`` takes fewer rule sets and rows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch

from neurosym.circuits import bounds, check_witness, compile, conditional_bounds
from neurosym.circuits.circuit import Circuit
from neurosym.logic.formula import Formula, Implies, Not, Or, Var
from neurosym.logic.knowledge import KnowledgeBase, Rule

WIDTHS = (0.05, 0.2, 0.5)


def clauses(rng: np.random.Generator, size: int) -> KnowledgeBase:
    """1.5 soft 3-clauses with random signs for each predicate: no direction is known in advance."""
    names = [f"p{i}" for i in range(size)]
    rules = []
    for i in range(3 * size // 2):
        scope = {i % size, *rng.choice(size, 2, replace=False).tolist()}
        literals: list[Formula] = [Not(Var(names[v])) if rng.random() < 0.5 else Var(names[v]) for v in sorted(scope)]
        rules.append(Rule(Or(tuple(literals)), float(rng.uniform(0.5, 3))))
    return KnowledgeBase(tuple(names[:2]), tuple(names[2:]), tuple(rules))


def largest_component(kb: KnowledgeBase) -> Circuit:
    """The circuit of the largest block of rules."""
    return max((c for part in compile(kb).parts for c in part.components), key=lambda c: len(c.variables)).circuit


def queries(size: int, sets: int, rows: int) -> dict[str, object]:
    """Seconds per query for rule sets of ``size`` interval sensors."""
    rng = np.random.default_rng(size)
    seconds, cpu, exact, holds, gap = [], [], 0, 0, 0.0
    for number in range(sets):
        circuit = largest_component(clauses(rng, size))
        m = circuit.num_variables
        width = WIDTHS[number % len(WIDTHS)]
        lower = torch.from_numpy(rng.uniform(0.02, 0.98 - width, (rows, m)))
        start, start_cpu = time.perf_counter(), time.process_time()
        found = conditional_bounds(circuit, number % m, lower, lower + width)
        seconds.append((time.perf_counter() - start) / rows)
        cpu.append((time.process_time() - start_cpu) / rows)
        exact += int(found.exact.sum())
        holds += int(check_witness(circuit, number % m, lower, lower + width, found).holds.sum())
        gap = max(gap, float(found.gap.max()))
    return {
        "sensors": size,
        "rows": rows,
        "rule_sets": sets,
        "median_seconds": float(np.median(seconds)),
        "p95_seconds": float(np.quantile(seconds, 0.95)),
        "median_cpu_seconds": float(np.median(cpu)),
        "p95_cpu_seconds": float(np.quantile(cpu, 0.95)),
        "exact": exact / (sets * rows),
        "witnesses_hold": holds / (sets * rows),
        "largest_gap": gap,
    }


def awa2(rows: int, both: bool) -> dict[str, object]:
    """All 50 classes and 85 attributes of AwA2: class -> attribute, and class -> not attribute if ``both``; hard rules."""
    matrix = np.loadtxt(Path(os.environ["NEUROSYM_DATA"]) / "awa2" / "predicate-matrix-binary.txt").astype(bool)
    classes, attributes = [f"c{i}" for i in range(50)], [f"a{i}" for i in range(85)]
    rules = []
    for c, a in zip(*np.nonzero(matrix | both), strict=True):
        literal = Var(attributes[a]) if matrix[c, a] else Not(Var(attributes[a]))
        rules.append(Rule(Implies(Var(classes[c]), literal), math.inf))
    kb = KnowledgeBase(tuple(classes), tuple(attributes), tuple(rules))
    compiled = compile(kb, circuit="exclusive")
    rng = np.random.default_rng(0)
    centre = torch.from_numpy(rng.uniform(0.1, 0.9, (rows, 135)))
    lower, upper = centre - 0.05, centre + 0.05
    start = time.perf_counter()
    bounds(compiled, lower[:1], upper[:1])
    first = time.perf_counter() - start
    start = time.perf_counter()
    found = bounds(compiled, lower, upper)
    seconds = time.perf_counter() - start
    start = time.process_time()
    bounds(compiled, lower, upper)
    cpu = time.process_time() - start
    return {
        "boxes": rows,
        "rules": len(rules),
        "first_call_seconds": first,
        "seconds_both_sides_classes_and_attributes": seconds,
        "seconds_per_side": seconds / 2,
        "cpu_seconds_per_side": cpu / 2,
        "exact_classes": float(found.exact[:, :50].double().mean()),
        "exact_attributes": float(found.exact[:, 50:].double().mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rule sets and rows")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    rows, sets = (10, 3) if quick else (100, 9)
    result: dict[str, object] = {
        "threads": torch.get_num_threads(),
        "queries": [queries(size, sets, rows) for size in range(10, 21, 2)],
    }
    if "NEUROSYM_DATA" in os.environ:
        result["awa2"] = [awa2(1000 if quick else 10_000, both) for both in (False, True)]
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
