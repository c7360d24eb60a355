"""Child process of :mod:`neurosym.circuits.compilers.d4`: compiles one DIMACS file with d4 under resource limits.

Run by its path with a folder as argument; it needs py_d4 and nothing of this package. It reads ``DIR/problem.json`` and
``DIR/in.cnf`` and writes ``DIR/out.nnf``. It is a process of its own because the C++ library can neither be interrupted
nor limited from inside, and prints statistics.
"""

from __future__ import annotations

import json
import os
import sys

TOO_MANY_EDGES = 3
"""Exit status when the circuit is too large."""
PAGE_BYTES = 1 << 26
"""Size of the pages of d4's cache. Its default first page of 4 GiB would not fit under a limit of address space."""


def main(folder: str) -> int:
    with open(os.path.join(folder, "problem.json")) as file:
        problem = json.load(file)
    if sys.platform != "win32":  # Windows has no such limits; the parent's time limit holds there as well
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (problem["memory_bytes"],) * 2)
        seconds = int(min(problem["max_seconds"], 1e9)) + 1  # no limit may be inf
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    import py_d4

    settings = json.loads(py_d4.dump_options_to_json(py_d4.OptionDpllStyleMethod()))
    settings["cache"]["bucket"].update(sizeFirstPage=str(PAGE_BYTES), sizeAdditionalPage=str(PAGE_BYTES))
    for place, value in problem["settings"].items():
        *groups, name = place.split(".")
        group = settings
        for part in groups:
            group = group[part]
        if name not in group:  # d4 would ignore it
            raise KeyError(place)
        group[name] = value
    options = py_d4.load_options_from_json(json.dumps(settings))
    result = py_d4.Solver(os.path.join(folder, "in.cnf"), options).compile()
    sys.stderr.write(f"nodes {result.getNbNodes()} edges {result.getNbEdges()}\n")
    if result.getNbEdges() > problem["max_edges"]:
        return TOO_MANY_EDGES
    with open(os.path.join(folder, "out.nnf"), "w") as file:
        file.write(result.getNNFString())
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stderr.flush()
    os._exit(code)  # nothing is left to tidy up, and freeing a large cache takes its time
