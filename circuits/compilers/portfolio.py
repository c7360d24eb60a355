"""Clauses to circuits: the right compiler for each connected component, under one limit of time and memory.

Unit propagation first; variables that no clause is left for are free. Then for each component, in this order: a single
clause and disjoint terms (no search, linear time), variable elimination where its tables are small, d4 where it is installed, and an SDD
over a vtree read off the clauses. Libraries in C run in processes that are killed at the limit.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from neurosym.circuits.compilers.cache import Cache
from neurosym.circuits.compilers.clauses import Cnf, Ints, components, propagate_units
from neurosym.circuits.compilers.combine import combine
from neurosym.circuits.compilers.d4 import MEMORY_BYTES, compile_d4, d4_installed
from neurosym.circuits.compilers.disjunction import disjunction_ir
from neurosym.circuits.compilers.eliminate import compile_elimination
from neurosym.circuits.compilers.runs import TermRuns, runs_to_ir
from neurosym.circuits.compilers.sdd import compile_sdd
from neurosym.circuits.compilers.terms import MAX_ENTRIES, DisjointTerms, find_runs
from neurosym.circuits.compilers.width import minimum_degrees
from neurosym.circuits.errors import CompileLimit
from neurosym.circuits.factors import Factor
from neurosym.circuits.ir import CircuitIR, CircuitTooLarge
from neurosym.errors import InputError
from neurosym.logic.cnf import Cnf as NamedCnf
from neurosym.logic.formula import Not, Or, Var

if TYPE_CHECKING:
    from neurosym.circuits.circuit import Circuit

Compiler = Literal["auto", "terms", "elimination", "sdd", "d4"]

ELIMINATION_ENTRIES = 30_000
"""Variable elimination is tried first up to this many table entries in all: a few tenths of a second."""
ENTRIES_A_VARIABLE = 32
"""... or in proportion to the number of variables: long chains and trees, on which the other compilers are slower."""
ELIMINATION_WIDTH = 12
"""Largest number of neighbours of a variable at its elimination."""
D4_SHARE = 0.7
"""Share of the time left that d4 gets; the SDD compiler gets the rest."""
SDD_VARIABLES = 20_000
"""Larger components that d4 has given up are not tried again."""
MOST = 1 << 60
"""Limits on numbers above it are none."""
MINIMISE_SHARE = 0.5
"""Share of the time left after an SDD is finished that minimisation may take."""


@dataclass(frozen=True)
class CompiledCnf:
    """Clauses compiled.

    Attributes:
        ir: the circuit over local variables 0..num_variables-1 (DIMACS variable v is v - 1); smooth over all of them.
        terms: the disjoint terms if the whole is of that form and small, otherwise None.
        compiler: which one was used; ``mixed`` if several components took different ones.
        seconds: wall-clock time.
        statistics: ``forced`` and ``free`` variables, ``components``, ``by_compiler`` (components each), ``nodes``,
            ``edges``, ``depth``, ``cached``.
    """

    ir: CircuitIR
    terms: DisjointTerms | None
    compiler: str
    seconds: float
    statistics: dict[str, object] = field(default_factory=dict)

    @cached_property
    def circuit(self) -> Circuit:
        """The circuit, ready to be evaluated; made on first use."""
        from neurosym.circuits.circuit import Circuit
        from neurosym.circuits.engine.terms import TermMatrix

        few = self.terms is not None and self.terms.num_terms > 0
        matrix = TermMatrix(self.terms.terms, self.terms.log_constants) if few and self.terms is not None else None
        return Circuit(self.ir, terms=matrix)


@dataclass(frozen=True)
class _Limits:
    compiler: Compiler
    deadline: float
    max_nodes: int
    max_memory: int
    minimise: bool

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()


@dataclass(frozen=True, eq=False)
class _Block:
    """A compiled component."""

    ir: CircuitIR
    runs: TermRuns | None
    compiler: str


def compile_cnf(
    cnf: Cnf | NamedCnf | Iterable[Sequence[int]],
    *,
    compiler: Compiler = "auto",
    max_seconds: float = 60.0,
    max_nodes: int = 2_000_000,
    max_memory: int = MEMORY_BYTES,
    minimise: bool = False,
    cache: str | Path | None = None,
) -> CompiledCnf:
    """Compile clauses to a smooth, deterministic, decomposable circuit.

    Args:
        cnf: clauses, also as lists of DIMACS literals.
        compiler: ``auto`` chooses for each component; a name insists on that one.
        max_seconds: wall-clock limit in all. Outside of it are steps in time linear in what they read or write, which
            are not broken off: bringing the clauses into order (about a second for a million literals), reading back a
            circuit that was finished in time (about a second for a million nodes), and writing it to the cache.
        max_nodes: limit on the nodes of the circuit.
        max_memory: bytes of address space of each compiler process.
        minimise: let the SDD compiler search for a better vtree when it has finished, within the time limit.
        cache: folder of compiled circuits; default: the environment variable NEUROSYM_CACHE, if it is set.

    Raises:
        InputError: a bad literal, an unknown compiler, one that is not installed, limits that are no limits, or a cache
            that cannot be written; and for ``terms``, clauses that are not of that form.
        CompileLimit: a limit was reached; its statistics tell how far it got.
    """
    start = time.monotonic()
    if compiler not in get_args(Compiler):
        raise InputError(f"compiler {compiler!r} is unknown; use {', '.join(get_args(Compiler))}")
    limits = (max_seconds, max_nodes, max_memory)
    if not all(isinstance(x, int | float | np.number) and not isinstance(x, bool) and x > 0 for x in limits):
        raise InputError("max_seconds, max_nodes and max_memory must be positive")
    max_nodes, max_memory = (int(min(x, MOST)) for x in limits[1:])  # also inf
    if compiler == "d4" and not d4_installed():
        raise InputError("the compiler d4 needs the package d4Solver; install neurosym[d4]")
    clauses = as_cnf(cnf)
    store = Cache.at(cache)
    options: dict[str, object] = {"compiler": compiler, "minimise": minimise}
    canonical = clauses.canonical() if store else clauses
    if store:
        found = store.get(canonical, options)
        if found is not None and found.ir.num_nodes <= max_nodes:
            statistics = {**found.statistics, "cached": True}
            return CompiledCnf(found.ir, found.terms, found.compiler, time.monotonic() - start, statistics)
        store.require_writable()
    try:
        done = _compile(clauses, _Limits(compiler, start + max_seconds, max_nodes, max_memory, minimise))
    except CompileLimit as limit:
        raise CompileLimit(limit.reason, {**limit.stats, "seconds": round(time.monotonic() - start, 2)}) from None
    done = replace(done, seconds=time.monotonic() - start)
    if store:
        store.put(canonical, options, done.ir, done.terms, done.compiler, done.statistics)
    return done


def as_cnf(cnf: Cnf | NamedCnf | Iterable[Sequence[int]]) -> Cnf:
    """Clauses in normal form from any of the forms that :func:`compile_cnf` takes."""
    if isinstance(cnf, Cnf):
        return cnf
    if isinstance(cnf, NamedCnf):
        return Cnf.from_clauses(cnf.clauses, cnf.num_variables)
    if isinstance(cnf, str | bytes):
        raise InputError("clauses are lists of literals; read DIMACS text with Cnf.from_dimacs")
    if not isinstance(cnf, Iterable):
        raise InputError(f"clauses are lists of literals, not {cnf!r:.40}")
    return Cnf.from_clauses(cnf)


def _compile(cnf: Cnf, limits: _Limits) -> CompiledCnf:
    unit = propagate_units(cnf)
    m = cnf.num_variables
    if not unit.consistent:
        nothing = DisjointTerms(np.zeros((0, m), dtype=np.int8), np.zeros(0))
        ir = runs_to_ir(_no_terms(m))
        return CompiledCnf(ir, nothing, "terms", 0.0, _statistics(ir, 0, 0, {}))
    blocks = components(unit.rest)
    shapes: dict[tuple[int, bytes, bytes], list[int]] = {}
    for number, (_, local) in enumerate(blocks):
        key = (local.num_variables, local.literals.tobytes(), local.offsets.tobytes())
        shapes.setdefault(key, []).append(number)
    # components of one shape are compiled once
    distinct = [blocks[numbers[0]][1] for numbers in shapes.values()]
    compiled = _compile_all(distinct, limits)
    parts: list[tuple[CircuitIR, Ints]] = []
    used: dict[str, int] = {}
    for block, numbers in zip(compiled, shapes.values(), strict=True):
        parts.append((block.ir, np.stack([blocks[i][0] - 1 for i in numbers])))
        used[block.compiler] = used.get(block.compiler, 0) + len(numbers)
    ir = combine(m, unit.forced, parts)
    if ir.num_nodes > limits.max_nodes and ir.num_nodes > 4 * m + 8:
        raise CompileLimit(f"the limit of {limits.max_nodes} nodes was reached", {"nodes": ir.num_nodes, **used})
    free = m - unit.forced.size - sum(variables.size for _, variables in parts)
    name = next(iter(used), "terms") if len(used) < 2 else "mixed"
    terms = _all_terms(m, unit.forced, parts, compiled)
    return CompiledCnf(ir, terms, name, 0.0, _statistics(ir, int(unit.forced.size), free, used))


def _no_terms(m: int) -> TermRuns:
    nothing = np.zeros(0, dtype=np.int64)
    return TermRuns(m, nothing, nothing, nothing.astype(np.int8), np.zeros(0))


def _statistics(ir: CircuitIR, forced: int, free: int, used: dict[str, int]) -> dict[str, object]:
    return {
        "forced": forced,
        "free": free,
        "components": sum(used.values()),
        "by_compiler": used,
        "nodes": ir.num_nodes,
        "edges": ir.num_edges,
        "depth": ir.depth,
        "cached": False,
    }


def _all_terms(
    m: int, forced: Ints, parts: list[tuple[CircuitIR, Ints]], compiled: list[_Block]
) -> DisjointTerms | None:
    """Terms over all variables if at most one component is not a literal, it is made of terms, and they are few."""
    copies = sum(len(variables) for _, variables in parts)
    if copies > 1 or (copies and compiled[0].runs is None):
        return None
    runs = compiled[0].runs if copies else None
    count = runs.num_terms if runs is not None else 1
    if count * m > MAX_ENTRIES:
        return None
    terms = np.full((count, m), -1, dtype=np.int8)
    terms[:, np.abs(forced) - 1] = forced > 0
    if runs is not None:
        terms[:, parts[0][1][0]] = runs.dense()
    return DisjointTerms(terms, np.zeros(count))


def _compile_all(cnfs: list[Cnf], limits: _Limits) -> list[_Block]:
    """Each component: the easy ones one after the other, the hard ones in parallel processes."""
    found: dict[int, _Block] = {}
    for number, cnf in enumerate(cnfs):
        if limits.left <= 0:
            stats = {"components": len(cnfs), "compiled": len(found), "variables": cnf.num_variables}
            raise CompileLimit("the time limit was reached", stats)
        easy = _easy(cnf, limits)
        if easy is not None:
            found[number] = easy
    hard = [number for number in range(len(cnfs)) if number not in found]
    if not hard:
        return [found[number] for number in range(len(cnfs))]
    if limits.compiler in ("terms", "elimination"):
        size = _size(cnfs[hard[0]])
        if limits.compiler == "terms":
            raise InputError(f"the clauses are not disjoint terms ({size}); use compiler 'auto'")
        raise CompileLimit("variable elimination would make too large tables", size)
    stop = threading.Event()
    with ThreadPoolExecutor(min(len(hard), os.cpu_count() or 1)) as pool:
        jobs = {number: pool.submit(_hard, cnfs[number], limits, stop) for number in hard}
        try:
            for number, job in jobs.items():
                found[number] = job.result()
        except BaseException:
            stop.set()
            raise
    return [found[number] for number in range(len(cnfs))]


def _size(cnf: Cnf) -> dict[str, object]:
    return {"variables": cnf.num_variables, "clauses": cnf.num_clauses}


def _easy(cnf: Cnf, limits: _Limits) -> _Block | None:
    if limits.compiler in ("auto", "terms"):
        if cnf.num_clauses == 1:
            if 8 * cnf.num_variables > limits.max_nodes:
                raise CompileLimit(f"the limit of {limits.max_nodes} nodes was reached", _size(cnf))
            return _Block(disjunction_ir(cnf.literals, cnf.num_variables), None, "terms")
        runs = find_runs(cnf, limits.deadline)
        if runs is not None:
            return _Block(runs_to_ir(runs), runs, "terms")
    entries = max(ELIMINATION_ENTRIES, ENTRIES_A_VARIABLE * cnf.num_variables)
    if limits.compiler == "elimination" or (
        limits.compiler == "auto" and elimination_entries(cnf, entries, limits.deadline) <= entries
    ):
        try:
            variables = range(cnf.num_variables)
            ir = compile_elimination(clause_factors(cnf), variables, limits.max_nodes, limits.deadline)
            return _Block(ir, None, "elimination")
        except CircuitTooLarge:
            return None
    return None


def _hard(cnf: Cnf, limits: _Limits, stop: threading.Event) -> _Block:
    """A compiler in a process of its own."""
    memory = limits.max_memory
    if limits.left <= 0:
        raise CompileLimit("the time limit was reached", _size(cnf))
    if limits.compiler == "d4" or (limits.compiler == "auto" and d4_installed()):
        share = 1.0 if limits.compiler == "d4" else D4_SHARE
        try:
            seconds = limits.left * share
            ir = compile_d4(cnf, max_seconds=seconds, max_nodes=limits.max_nodes, memory_bytes=memory, stop=stop)
            return _Block(ir, None, "d4")
        except CompileLimit:
            if limits.compiler == "d4" or stop.is_set() or cnf.num_variables > SDD_VARIABLES or limits.left <= 0:
                raise
    ir = compile_sdd(
        clause_factors(cnf),
        range(cnf.num_variables),
        max_seconds=limits.left,
        max_nodes=limits.max_nodes,
        memory_bytes=memory,
        minimise_seconds=MINIMISE_SHARE * max(limits.left, 0.0) if limits.minimise else 0.0,
        stop=stop,
    )
    return _Block(ir, None, "sdd")


def clause_factors(cnf: Cnf) -> list[Factor]:
    """Each clause as a hard rule; variable v of the clauses is predicate v - 1."""
    factors = []
    for clause in cnf.clauses():
        scope = tuple(abs(x) - 1 for x in clause)
        names = tuple(f"x{v}" for v in scope)
        literals = tuple(
            Var(name) if literal > 0 else Not(Var(name)) for name, literal in zip(names, clause, strict=True)
        )
        formula = Or(literals) if len(literals) > 1 else literals[0]
        factors.append(Factor(scope, formula, None, -math.inf, names))
    return factors


def elimination_entries(cnf: Cnf, limit: int, deadline: float = math.inf) -> int:
    """Entries of all tables of variable elimination by minimum degree; some number above ``limit`` where it passes it.

    Raises:
        CompileLimit: the deadline (``time.monotonic``) has passed.
    """
    if cnf.lengths.max(initial=0) > ELIMINATION_WIDTH:
        return limit + 1
    total = 0
    for degree in minimum_degrees(cnf, deadline):
        if degree > ELIMINATION_WIDTH:
            return limit + 1
        total += 2 << degree
        if total > limit:
            break
    return total
