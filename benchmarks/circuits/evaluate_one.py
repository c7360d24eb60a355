"""Child process: time everything that evaluates the circuits of one case, interleaved, after checking the values.

Usage: python -m benchmarks.circuits.evaluate_one CASE WORK_FOLDER BATCHES SECONDS REPEATS OUT.json

Times are CPU seconds of this process, whose libraries have one thread; wall time and the machine's load stand beside
them. One round times each contender once; the rounds repeat, so that a busy moment of the machine hits all of them.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.circuits.contenders import (
    DTYPES,
    Contender,
    engines,
    klay,
    klay_from_file,
    klay_from_ir,
    ours,
    pysdd,
    tolerance,
    traffic,
    weights,
)
from benchmarks.circuits.suite import Case, case
from neurosym.circuits import Circuit, read_nnf, read_sdd
from neurosym.circuits.compilers.clauses import Cnf
from neurosym.circuits.compilers.portfolio import compile_cnf
from neurosym.circuits.engine.terms import TermMatrix
from neurosym.circuits.ir import CircuitIR

PYSDD_ROWS = 200
"""PySDD's loop is timed on so many rows and scaled: its rows cost the same."""
KLAY_BYTES = 2 << 30
"""KLay keeps all gathered edges of a batch; it is timed on as many rows as fit here, and scaled."""
EACH = 0.02
"""Seconds that one timing lasts about (less with a budget below 1 s), by repeating short calls."""
ENUMERATED = 12
"""Up to so many variables the values are checked against the sum over all worlds in fractions."""


class WrongValue(Exception):
    """A contender does not give the reference's values."""


@dataclass(frozen=True)
class Subject:
    """The circuits of a case: the shared one with the file it came from, and our portfolio's.

    Where no peer compiled the case, there is no file and the shared circuit is ours.
    """

    shared: CircuitIR
    file: Path | None
    vtree: Path | None
    own: Circuit

    @cached_property
    def klay(self) -> list[tuple[Any, CircuitIR, str]]:
        """KLay's circuits of both, with our form of each and a label."""
        theirs = [] if self.file is None else [(klay_from_file(self.file), self.shared, "")]
        return [*theirs, (klay_from_ir(self.own.ir), self.own.ir, "own circuit, ")]


def load(item: Case, work: Path) -> Subject:
    """The SDD that pysdd made without search where there is one, else d4's circuit, else only ours."""
    compiled = compile_cnf(Cnf.from_clauses(item.clauses, item.num_variables))
    terms = None if compiled.terms is None else TermMatrix(compiled.terms.terms, compiled.terms.log_constants)
    own = Circuit(compiled.ir, terms=terms)
    for method in ("pysdd_tree_vtree", "pysdd_static"):
        sdd, vtree = (work / f"{item.name}.{method}{suffix}" for suffix in (".sdd", ".vtree"))
        if sdd.exists():
            return Subject(read_sdd(sdd, vtree), sdd, vtree, own)
    d4 = work / f"{item.name}.circuit.d4"
    if d4.exists():
        return Subject(read_nnf(d4, item.num_variables), d4, None, own)
    return Subject(own.ir, None, None, own)


def contenders(subject: Subject, dtype: torch.dtype) -> list[Contender]:
    """Everybody, ours first."""
    shared = Circuit(subject.shared)
    found = [ours(shared, engine, dtype) for engine in engines(shared)]
    found += [ours(subject.own, engine, dtype, "own circuit, ") for engine in engines(subject.own)]
    size = 4 if dtype == torch.float32 else 8
    for circuit, ir, label in subject.klay:
        rows = max(1, KLAY_BYTES // (4 * size * ir.num_edges))
        # on a circuit that is not smooth the best world's weight would lack the variables left out
        for semiring in ("log", "real", "mpe") if label else ("log", "real"):
            made = klay(circuit, semiring, label)
            found.append(Contender(made.name, made.run, made.operations, rows))
    if subject.file is not None and subject.vtree is not None:
        found.append(pysdd(subject.file, subject.vtree, PYSDD_ROWS))
    return found


def enumerated(item: Case, pos: Tensor, neg: Tensor) -> list[float]:
    """Log weighted counts of some rows by trying every world, exact up to the last rounding."""
    found = []
    for p, q in zip(pos.tolist(), neg.tolist(), strict=True):
        total = Fraction(0)
        for world in itertools.product((False, True), repeat=item.num_variables):
            if all(any(world[abs(x) - 1] == (x > 0) for x in clause) for clause in item.clauses):
                total += math.prod(Fraction(p[i] if on else q[i]) for i, on in enumerate(world))
        found.append(math.log(total) if total else -math.inf)
    return found


@dataclass(frozen=True)
class Truth:
    """Weights, and the values that everybody must give for them."""

    pos: Tensor
    neg: Tensor
    log_value: Tensor
    slope: Tensor
    log_best: Tensor


def truth_for(item: Case, subject: Subject, dtype: torch.dtype, rows: int = 20) -> Truth:
    """pysdd's values (else KLay's in log space) in float64 at the given weights, checked by enumeration where possible.

    Slopes are along p -> (p, 1 - p), the only direction in which a circuit that is not smooth has the right one. The
    best world's weight is that of the portfolio's circuit by KLay, or by our own semiring code where KLay underflows.

    Raises:
        WrongValue: the reference differs from enumeration.
    """
    exact = contenders(subject, torch.float64)
    judges = {c.name: c for c in exact if c.name in ("pysdd loop", "klay log", "klay own circuit, log")}
    judge = judges.get("pysdd loop") or judges.get("klay log") or judges["klay own circuit, log"]
    pos, neg = weights(rows, item.num_variables, dtype)
    wide = pos.double(), neg.double()
    log_value = judge.run("backward", *wide).detach()
    assert wide[0].grad is not None
    assert wide[1].grad is not None
    if item.num_variables <= ENUMERATED:
        found = torch.tensor(enumerated(item, *(w[:3].detach() for w in wide)), dtype=torch.float64)
        if not torch.allclose(found, log_value[:3], rtol=0, atol=1e-9):
            raise WrongValue(f"{item.name}: {judge.name} differs from enumeration")
    best = next(c for c in exact if c.name == "klay own circuit, mpe").run("mpe", *(w.clone().detach() for w in wide))
    if not bool(best.isfinite().all()):
        from neurosym.circuits import MAX_LOG, evaluate_semiring

        best = evaluate_semiring(subject.own.ir, MAX_LOG, *(w.detach().log() for w in wide))
    return Truth(pos, neg, log_value, wide[0].grad - wide[1].grad, best)


def error_of(contender: Contender, operation: str, truth: Truth) -> float:
    """Largest error of its log values, and of its slopes relative to slopes above 1."""
    pos, neg = truth.pos.detach().clone(), truth.neg.detach().clone()
    found = contender.run(operation, pos, neg).detach().double()
    error = float((found - (truth.log_best if operation == "mpe" else truth.log_value)).abs().max())
    if operation == "backward":
        assert pos.grad is not None
        assert neg.grad is not None
        change = (pos.grad.double() - neg.grad.double() - truth.slope) / truth.slope.abs().clamp_min(1.0)
        error = max(error, float(change.abs().max()))
    return error


def check(everybody: list[Contender], item: Case, subject: Subject, dtype: torch.dtype) -> dict[str, float | str]:
    """Largest error of each contender, or for a peer that gives wrong values what went wrong (it is not timed then).

    Raises:
        WrongValue: one of our engines is wrong.
    """
    truth = truth_for(item, subject, dtype)
    depth = subject.shared.depth + subject.own.ir.depth
    limit = tolerance(dtype, depth, float(truth.log_value.abs().max()))
    found: dict[str, float | str] = {}
    for contender in everybody:
        worst = 0.0
        for operation in contender.operations:
            error = error_of(contender, operation, truth)
            if not error <= limit * (100 if operation == "backward" else 1):
                if contender.name.startswith("neurosym"):
                    raise WrongValue(f"{item.name}: {contender.name}, {operation}, {dtype}: off by {error:.3g}")
                found[contender.name] = f"wrong values in {operation}: off by {error:.3g}"
                break
            worst = max(worst, error)
        else:
            found[contender.name] = worst
    return found


def once(contender: Contender, operation: str, pos: Tensor, neg: Tensor, times: int) -> tuple[float, float]:
    """CPU and wall seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        contender.run(operation, pos, neg)
    return (time.process_time() - cpu) / times, (time.perf_counter() - wall) / times


@dataclass
class Entry:
    """A contender in a race: its weights, how often it is called for one timing, and what was measured."""

    contender: Contender
    pos: Tensor
    neg: Tensor
    calls: int = 1
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def time(self, operation: str) -> tuple[float, float]:
        """CPU and wall seconds of one call."""
        return once(self.contender, operation, self.pos, self.neg, self.calls)


def race(
    everybody: list[Contender],
    operation: str,
    batch: int,
    variables: int,
    dtype: torch.dtype,
    budget: float,
    repeats: int,
) -> dict[str, dict[str, Any]]:
    """Interleaved timings of one operation; a contender that used up the budget drops out of later rounds."""
    entries = []
    for contender in everybody:
        if operation in contender.operations:
            rows = min(batch, contender.most_rows or batch)
            entry = Entry(contender, *weights(rows, variables, dtype))
            seconds = entry.time(operation)[0]
            if seconds < budget / 4:  # the first call may build tables or load compiled code
                seconds = entry.time(operation)[0]
            entry.calls = max(1, min(200, math.ceil(min(EACH, budget / 50) / max(seconds, 1e-6))))
            entries.append(entry)
    for number in range(repeats):
        for entry in entries:
            if number == 0 or sum(entry.cpu) * entry.calls <= budget:
                cpu, wall = entry.time(operation)
                entry.cpu.append(cpu)
                entry.wall.append(wall)
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        rows = entry.pos.shape[0]
        found[entry.contender.name] = {
            "seconds": statistics.median(entry.cpu) * batch / rows,
            "low": min(entry.cpu) * batch / rows,
            "high": max(entry.cpu) * batch / rows,
            "wall": statistics.median(entry.wall) * batch / rows,
            "rounds": len(entry.cpu),
            "calls": entry.calls,
            "rows_timed": rows,
        }
    return found


def main(name: str, work: str, batches: str, budget: str, repeats: str, out: str) -> None:
    torch.set_num_threads(1)
    item = case(name)
    subject = load(item, Path(work))
    result: dict[str, Any] = {
        "variables": item.num_variables,
        "circuit": {
            "from": "ours" if subject.file is None else subject.file.suffix[1:],
            "nodes": subject.shared.num_nodes,
            "edges": subject.shared.num_edges,
            "depth": subject.shared.depth,
            "traffic": traffic(subject.shared),
        },
        "own": {
            "nodes": subject.own.ir.num_nodes,
            "edges": subject.own.ir.num_edges,
            "depth": subject.own.ir.depth,
            "traffic": traffic(subject.own.ir),
            "terms": None if subject.own.terms is None else subject.own.terms.num_terms,
        },
        "load_before": os.getloadavg()[0],
        "errors": {},
        "times": {},
    }
    for label, dtype in DTYPES.items():
        everybody = contenders(subject, dtype)
        result["errors"][label] = checked = check(everybody, item, subject, dtype)
        everybody = [c for c in everybody if not isinstance(checked[c.name], str)]
        for operation in ("forward", "backward", "mpe"):
            for batch in map(int, batches.split(",")):
                timed = race(everybody, operation, batch, item.num_variables, dtype, float(budget), int(repeats))
                result["times"][f"{label}/{operation}/{batch}"] = timed
    result["load_after"] = os.getloadavg()[0]
    Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:7])
