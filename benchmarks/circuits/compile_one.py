"""Child process: compile one case by one method under limits, check the result, and write what it cost.

Usage: python -m benchmarks.circuits.compile_one CASE METHOD FOLDER SECONDS

CPU seconds are those of this process and of the children it waited for, without imports of the libraries. The clauses
are handed over as a DIMACS file (pysdd) or as lists (d4, neurosym), which is what each library takes most directly.
"""

from __future__ import annotations

import json
import math
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.circuits.suite import Case, case

MEMORY_BYTES = 12 << 30
"""Address space; d4 reserves 4 GiB of it at the start, torch nearly as much."""
METHODS = ("neurosym", "pysdd default", "pysdd static", "pysdd tree vtree", "d4")


def weights(count: int) -> tuple[list[float], list[float]]:
    """Weights that every method evaluates its result with; positive and negative sum to 1."""
    rng = random.Random(count)
    pos = [rng.uniform(0.2, 0.8) for _ in range(count)]
    return pos, [1.0 - p for p in pos]


def cpu_seconds() -> float:
    """Of this process and its ended children."""
    return sum(
        getattr(resource.getrusage(who), field)
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        for field in ("ru_utime", "ru_stime")
    )


def timed(work: Callable[[], Any], limit: float) -> tuple[Any, dict[str, float]]:
    """The result and its cost; the process dies of SIGXCPU when this takes more CPU seconds than ``limit``."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds() + limit) + 1, hard))
    wall, cpu = time.perf_counter(), cpu_seconds()
    result = work()
    cost = {"seconds": cpu_seconds() - cpu, "wall": time.perf_counter() - wall}
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    return result, cost


def neurosym(item: Case, folder: Path, seconds: float) -> dict[str, Any]:
    """The portfolio, and the time to an evaluable circuit."""
    import scipy.sparse.csgraph  # noqa: F401  # some compilations import it on first use
    import torch

    from neurosym.circuits import model_count, save_circuit
    from neurosym.circuits.compilers.clauses import Cnf
    from neurosym.circuits.compilers.portfolio import compile_cnf

    os.environ.pop("NEUROSYM_CACHE", None)  # a cache would turn the second run into a file read
    for clauses in ([[1, 2], [3, 4]], [[-2, 1], [-3, 2], [-4, 2], [-3, -4]], [[1, 2, 3], [-1, -2, 4], [2, -3, -4]]):
        compile_cnf(clauses)  # imports happen on first use
    compiled, cost = timed(
        lambda: compile_cnf(Cnf.from_clauses(item.clauses, item.num_variables), max_seconds=4 * seconds), seconds
    )
    if cost["seconds"] > seconds:  # the clock of its own child processes is not stopped by this process's limit
        return {**cost, "failed": f"more than {seconds:g} CPU s", "at_limit": True}
    circuit = compiled.circuit
    save_circuit(circuit, folder / f"{item.name}.npz")
    pos, neg = (torch.tensor(w, dtype=torch.float64) for w in weights(item.num_variables))
    value, first = timed(lambda: float(circuit.log_wmc(pos, neg)), 2 * seconds)
    return {
        **cost,
        "first_value": first["seconds"],
        "compiler": compiled.compiler,
        "nodes": circuit.ir.num_nodes,
        "edges": circuit.ir.num_edges,
        "depth": circuit.ir.depth,
        "log_wmc": value,
        "models": str(model_count(circuit.ir)),
    }


def pysdd(item: Case, folder: Path, how: str, seconds: float) -> dict[str, Any]:
    from pysdd.sdd import CompilerOptions, Fnf, SddManager, Vtree

    path = folder / f"{item.name}.{os.getpid()}.cnf"
    path.write_text(item.dimacs())

    def by_default() -> Any:
        return SddManager.from_cnf_file(str(path).encode(), b"balanced")

    def static() -> Any:
        if how == "pysdd tree vtree":
            text = item.vtree()
            assert text is not None
            place = path.with_suffix(".vtree")
            place.write_text(text)
            vtree = Vtree.from_file(str(place).encode())
            place.unlink()
        else:
            vtree = Vtree(var_count=item.num_variables, vtree_type="balanced")
        manager = SddManager.from_vtree(vtree)
        manager.auto_gc_and_minimize_off()
        manager.set_options(CompilerOptions(vtree_search_mode=0))
        return manager, manager.fnf_to_sdd(Fnf.from_cnf_file(str(path).encode()))

    (manager, root), cost = timed(by_default if how == "pysdd default" else static, seconds)
    path.unlink()
    if how != "pysdd default":
        root.save(str(folder / f"{item.name}.sdd.part").encode())
        manager.vtree().save(str(folder / f"{item.name}.vtree").encode())
        (folder / f"{item.name}.sdd.part").rename(folder / f"{item.name}.sdd")
    wmc = root.wmc(log_mode=True)
    for v, (p, q) in enumerate(zip(*weights(item.num_variables), strict=True), start=1):
        wmc.set_literal_weight(manager.literal(v), math.log(p))
        wmc.set_literal_weight(manager.literal(-v), math.log(q))
    value = -math.inf if root.is_false() else float(wmc.propagate())
    return {**cost, "elements": root.size(), "nodes": root.count(), "log_wmc": value}


def d4(item: Case, folder: Path, seconds: float) -> dict[str, Any]:
    import py_d4

    made, cost = timed(lambda: py_d4.Solver(item.clauses, item.num_variables).compile(), seconds)
    text, writing = timed(made.getNNFString, seconds)
    (folder / f"{item.name}.d4.part").write_text(text)
    (folder / f"{item.name}.d4.part").rename(folder / f"{item.name}.d4")
    from neurosym.circuits.formats.nnf import read_nnf

    ir, reading = timed(lambda: read_nnf(folder / f"{item.name}.d4", item.num_variables), seconds)
    import torch

    from neurosym.circuits import Circuit

    pos, neg = (torch.tensor(w, dtype=torch.float64) for w in weights(item.num_variables))
    return {
        **cost,
        "writing": writing["seconds"],
        "reading": reading["seconds"],
        "nodes": made.getNbNodes(),
        "edges": made.getNbEdges(),
        "smooth_edges": ir.num_edges,
        "log_wmc": float(Circuit(ir).log_wmc(pos, neg)),
        "models": str(made.count([])),
    }


def main(name: str, method: str, place: str, limit: str) -> None:
    seconds, folder = float(limit), Path(place)
    hard = int(3 * seconds) + 60  # imports and checks have their own time
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    item = case(name)
    if method == "neurosym":
        found = neurosym(item, folder, seconds)
    elif method == "d4":
        found = d4(item, folder, seconds)
    else:
        found = pysdd(item, folder, method, seconds)
    (folder / "result.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:5])
