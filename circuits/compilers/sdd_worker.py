"""Child process of :mod:`neurosym.circuits.compilers.sdd`: builds one SDD with pysdd under resource limits.

Run by its path with a folder as argument; it needs pysdd and nothing of this package. It reads ``DIR/problem.json``, writes ``DIR/out.sdd`` and
``DIR/out.vtree``, and prints one line of progress after each constraint, so that the parent can tell how far a killed
run got. It is a process of its own because the C library can neither be interrupted nor limited from inside.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TOO_MANY_NODES = 3
"""Exit status when the node limit was passed."""


def build(manager: Any, formula: list[Any]) -> Any:
    """SDD of a formula in prefix lists: ["v", i], ["c", bool], ["~", f], ["&", ...], ["|", ...], ["=", f, g], ["1", ...]
    (exactly one of the variables) and ["<", ...] (at most one)."""
    tag, *args = formula
    if tag == "v":
        return manager.literal(args[0])
    if tag == "c":
        return manager.true() if args[0] else manager.false()
    if tag in ("1", "<"):
        return _count(manager, args, tag == "1")
    parts = [build(manager, arg) for arg in args]
    if tag == "~":
        return ~parts[0]
    if tag == "=":
        return (parts[0] & parts[1]) | (~parts[0] & ~parts[1])
    result = parts[0]
    for part in parts[1:]:
        result = (result & part) if tag == "&" else (result | part)
    return result


def _count(manager: Any, variables: list[int], exactly: bool) -> Any:
    """Exactly one (or at most one) of the variables, by a chain from the last to the first."""
    none, some = manager.true(), manager.false() if exactly else manager.true()
    for variable in reversed(variables):
        x = manager.literal(variable)
        some = (x & none) | (~x & some)
        none = ~x & none
    return some


def main(folder: Path) -> int:
    problem = json.loads((folder / "problem.json").read_text())
    if sys.platform != "win32":  # Windows has no such limits; the parent's time limit holds there as well
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (problem["memory_bytes"],) * 2)
        seconds = int(min(problem["max_seconds"], 1e9)) + 1  # no limit may be inf
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    from pysdd.sdd import CompilerOptions, SddManager, Vtree

    vtree = Vtree.from_file(str(folder / "in.vtree").encode())
    manager = SddManager.from_vtree(vtree)
    # the vtree carries the structure of the rules: no search may change it
    manager.auto_gc_and_minimize_off()
    manager.set_options(CompilerOptions(vtree_search_mode=0))
    result = manager.true()
    result.ref()
    for number, formula in enumerate(problem["constraints"], start=1):
        joined = result & build(manager, formula)
        joined.ref()
        result.deref()
        result = joined
        print("progress", number, result.size(), flush=True)
        if manager.dead_size() > problem["collect_above"]:
            manager.garbage_collect()
        if result.size() > problem["max_nodes"]:
            return TOO_MANY_NODES
    _save(manager, result, folder, "out")
    if problem["minimise_seconds"] > 0:
        manager.set_vtree_search_time_limit(max(1, int(problem["minimise_seconds"])))
        manager.minimize_limited()
        _save(manager, result, folder, "min")
    return 0


def _save(manager: Any, result: Any, folder: Path, name: str) -> None:
    """Write the diagram and its vtree, then an empty file that says that both are complete."""
    result.save(str(folder / f"{name}.sdd").encode())
    manager.vtree().save(str(folder / f"{name}.vtree").encode())
    (folder / f"{name}.done").touch()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
