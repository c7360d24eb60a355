"""Child process: peak memory of forward and backward on one large circuit.

Usage: python -m benchmarks.circuits.memory_one WHO ELEMENTS BATCH OUT.json      (WHO: neurosym, klay log, klay real)

The circuit is a random decision diagram: in every layer, each of many nodes decides the layer's variable and goes on to
two random nodes of the next layer, two elements each; the last layer is literals. Weights are float32, as KLay's are; the log values of a few rows
are kept, so that the runs can be compared.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.circuits.contenders import klay, weights
from neurosym.circuits import Circuit
from neurosym.circuits.formats.graph import assemble
from neurosym.circuits.ir import LITERAL, PRODUCT, SUM, CircuitIR

VARIABLES = 100
MOST_BYTES = 14 << 30
"""Address space: past it the answer is that it does not fit."""


def decision_diagram(elements: int, seed: int = 0) -> CircuitIR:
    """About ``elements`` elements over 100 variables."""
    rng = np.random.default_rng(seed)
    width = max(2, elements // (2 * (VARIABLES - 13)))  # the layers below the root grow by a factor of two
    literals = np.arange(2 * VARIABLES)  # node 2v: variable v true, 2v + 1: false
    kind, edges, size = [np.full(2 * VARIABLES, LITERAL, dtype=np.int8)], [], 2 * VARIABLES
    below = literals[-2:]
    for variable in range(VARIABLES - 2, -1, -1):
        count = min(width, 2 ** min(variable, 40))
        sums = size + np.arange(count)
        products = size + count + np.arange(2 * count)
        size += 3 * count
        kind += [np.full(count, SUM, dtype=np.int8), np.full(2 * count, PRODUCT, dtype=np.int8)]
        edges.append(np.stack([np.repeat(sums, 2), products]))
        edges.append(np.stack([products, np.tile([2 * variable, 2 * variable + 1], count)]))
        # every node below is used at least once
        used = np.concatenate([rng.permutation(below), rng.choice(below, 2 * count)])[: 2 * count]
        edges.append(np.stack([products, rng.permutation(used)]))
        below = sums
    value = np.where(literals % 2 == 0, literals // 2 + 1, -(literals // 2 + 1))
    literal = np.concatenate([value, np.zeros(size - literals.size, dtype=np.int64)])
    root = int(below[0])
    return assemble(np.concatenate(kind), literal, np.zeros(size), np.concatenate(edges, axis=1), root, VARIABLES)


def resident() -> int:
    """Peak resident bytes so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def klay_module(ir: CircuitIR, semiring: str) -> Any:
    from benchmarks.circuits.contenders import klay_from_ir

    return klay(klay_from_ir(ir), semiring)


def main(who: str, elements: str, batch: str, out: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    torch.set_num_threads(1)
    ir = decision_diagram(int(elements))
    pos, neg = weights(int(batch), VARIABLES, torch.float32)
    result: dict[str, Any] = {
        "elements": int(np.diff(ir.offsets)[ir.kind == SUM].sum()),
        "nodes": ir.num_nodes,
        "edges": ir.num_edges,
        "batch": int(batch),
        "before": resident(),
    }
    start = time.process_time()
    if who == "neurosym":
        circuit = Circuit(ir, torch.float32)
        result["build"] = time.process_time() - start
        start = time.process_time()
        value = circuit.log_wmc(pos.requires_grad_(), neg.requires_grad_())
        value.sum().backward()
    else:
        module = klay_module(ir, who.split()[1])
        result["build"] = time.process_time() - start
        start = time.process_time()
        value = module.run("backward", pos, neg)
    assert pos.grad is not None
    result["seconds"] = time.process_time() - start
    result["peak"] = resident()
    result["values"] = value[:5].tolist()
    result["slopes"] = (pos.grad - neg.grad)[:3, -3:].ravel().tolist()  # type: ignore[operator]
    Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:5])
