"""Child process of :func:`neurosym.circuits.formats.sdd.write_sdd`: a circuit's nodes as SDD nodes, under limits.

Run by its path with a folder as argument; it needs pysdd and nothing of this package. It reads ``DIR/circuit.json`` and
``DIR/in.vtree`` if there is one, and writes ``DIR/out.sdd`` and ``DIR/out.vtree``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

LITERAL, CONSTANT, PRODUCT = 0, 1, 2


def main(folder: Path) -> int:
    job = json.loads((folder / "circuit.json").read_text())
    if sys.platform != "win32":  # Windows has no such limits; the parent's time limit holds there as well
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (job["memory_bytes"],) * 2)
        seconds = int(job["max_seconds"]) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    from pysdd.sdd import CompilerOptions, SddManager, Vtree

    given = folder / "in.vtree"
    if given.exists():
        vtree = Vtree.from_file(str(given).encode())
    else:
        vtree = Vtree(var_count=job["num_variables"], vtree_type="balanced")
    manager = SddManager.from_vtree(vtree)
    # neither garbage collection nor a search for other vtrees: every node stays valid
    manager.auto_gc_and_minimize_off()
    manager.set_options(CompilerOptions(vtree_search_mode=0))
    nodes: list[Any] = []
    for kind, literal, true, children in job["nodes"]:
        if kind == LITERAL:
            node = manager.literal(literal)
        elif kind == CONSTANT:
            node = manager.true() if true else manager.false()
        else:
            node = nodes[children[0]]
            for child in children[1:]:
                node = (node & nodes[child]) if kind == PRODUCT else (node | nodes[child])
        nodes.append(node)
    nodes[-1].save(str(folder / "out.sdd").encode())
    manager.vtree().save(str(folder / "out.vtree").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
