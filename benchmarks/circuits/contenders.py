"""What is timed: our engines and the peers behind one interface, on given circuits."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurosym.circuits import Circuit
from neurosym.circuits.engine.choose import ENGINES, installed
from neurosym.circuits.ir import LITERAL, PRODUCT, SUM, CircuitIR

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Contender:
    """Something that evaluates one circuit.

    Attributes:
        name: e.g. ``neurosym numba`` or ``klay log``.
        run: (operation, pos, neg) -> log values [B] (``forward``, ``backward``, ``mpe``); None where it cannot. For
            ``backward`` it leaves the gradient where ``gradient`` finds it.
        operations: those it can do.
        most_rows: it is timed on no more rows, and the time is scaled up to the batch.
    """

    name: str
    run: Callable[[str, Tensor, Tensor], Tensor]
    operations: tuple[str, ...] = ("forward", "backward", "mpe")
    most_rows: int | None = None


def engines(circuit: Circuit) -> list[str]:
    """The engines that this machine and this circuit allow."""
    left_out = {"triton"} if not torch.cuda.is_available() else set()
    if circuit.terms is None:
        left_out |= {"terms", "matrix"}
    if not installed("numba"):
        left_out.add("numba")
    return [name for name in ENGINES if name not in left_out]


def ours(circuit: Circuit, engine: str, dtype: torch.dtype, label: str = "") -> Contender:
    """One of our engines; gradients with respect to all weights of both signs."""
    from neurosym.circuits.queries.sampling import circuit_mpe

    own = circuit.with_engine(engine, dtype)

    def run(operation: str, pos: Tensor, neg: Tensor) -> Tensor:
        if operation == "forward":
            with torch.no_grad():
                return own.log_wmc(pos, neg)
        if operation == "mpe":
            return circuit_mpe(own, pos, neg)[1]
        pos.grad = neg.grad = None
        value = own.log_wmc(pos.requires_grad_(), neg.requires_grad_())
        value.sum().backward()
        return value.detach()

    # best worlds do not go through the engines, so they are timed once
    operations = ("forward", "backward", "mpe") if engine == "auto" else ("forward", "backward")
    return Contender(f"neurosym {label}{engine}", run, operations)


def klay_from_ir(ir: CircuitIR) -> Any:
    """Exactly our circuit, node by node, as KLay's."""
    import klay

    made = klay.Circuit()
    nodes: list[Any] = []
    for node in range(ir.num_nodes):
        kids = [nodes[child] for child in ir.children_of(node)]
        kind = int(ir.kind[node])
        if kind == LITERAL:
            nodes.append(made.literal_node(int(ir.literal[node])))
        elif kind in (PRODUCT, SUM):
            nodes.append(made.and_node(kids) if kind == PRODUCT else made.or_node(kids))
        else:
            nodes.append(made.true_node() if ir.log_constant[node] == 0 else made.false_node())
    made.set_root(nodes[-1])
    made.remove_unused_nodes()
    return made


def klay_from_file(path: Path) -> Any:
    """KLay's usual way in: an SDD or a d4 file."""
    import klay

    made = klay.Circuit()
    (made.add_sdd_from_file if path.suffix == ".sdd" else made.add_d4_from_file)(str(path))
    made.remove_unused_nodes()
    return made


def klay(circuit: Any, semiring: str, label: str = "") -> Contender:
    """KLay without torch.compile, gradients with respect to its own inputs of both signs (logs in the log semiring)."""
    module = circuit.to_torch_module(semiring=semiring, compile=False)

    def values(pos: Tensor, neg: Tensor) -> Tensor:
        out = module(pos, neg)
        return out.reshape(-1) if semiring == "log" else out.reshape(-1).log()

    def run(operation: str, pos: Tensor, neg: Tensor) -> Tensor:
        given = [x.detach() for x in ((pos.log(), neg.log()) if semiring == "log" else (pos, neg))]
        if operation == "forward":
            with torch.no_grad():
                return values(*given)
        leaves = [x.requires_grad_() for x in given]
        out = values(*leaves)
        out.sum().backward()
        # in the max-product semiring the literals with a slope are the best world; otherwise d/dlog w becomes d/dw
        for weight, leaf in zip((pos, neg), leaves, strict=True):
            assert leaf.grad is not None
            weight.grad = leaf.grad / weight.detach() if semiring == "log" else leaf.grad
        return out.detach()

    return Contender(f"klay {label}{semiring}", run, ("mpe",) if semiring == "mpe" else ("forward", "backward"))


def pysdd(sdd: Path, vtree: Path, most_rows: int) -> Contender:
    """PySDD's weighted model count in a loop over the rows; its one call computes value and derivatives."""
    from pysdd.sdd import CompilerOptions, SddManager, Vtree

    manager = SddManager.from_vtree(Vtree.from_file(str(vtree).encode()))
    manager.auto_gc_and_minimize_off()
    manager.set_options(CompilerOptions(vtree_search_mode=0))
    root = manager.read_sdd_file(str(sdd).encode())
    wmc = root.wmc(log_mode=True)
    count = manager.var_count()

    def run(operation: str, pos: Tensor, neg: Tensor) -> Tensor:
        # PySDD takes all weights at once: negative literals from the last to the first, then the positive ones
        rows = torch.cat([neg.detach().flip(-1), pos.detach()], dim=-1).double().log().tolist()
        out, on, off = [], [], []
        for row in rows:
            wmc.set_literal_weights_from_array(array("d", row))
            out.append(wmc.propagate())
            if operation == "backward":
                on.append([wmc.literal_derivative(manager.literal(v)) for v in range(1, count + 1)])
                off.append([wmc.literal_derivative(manager.literal(-v)) for v in range(1, count + 1)])
        value = torch.tensor(out, dtype=torch.float64)
        if operation == "backward":
            pos.grad = (torch.tensor(on, dtype=torch.float64) - value[:, None]).exp().to(pos.dtype)
            neg.grad = (torch.tensor(off, dtype=torch.float64) - value[:, None]).exp().to(neg.dtype)
        return value

    return Contender("pysdd loop", run, ("forward", "backward"), most_rows)


def weights(batch: int, variables: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Random probabilities; both signs sum to 1, because KLay does not smooth and pysdd's values are the same then."""
    generator = torch.Generator().manual_seed(batch + variables)
    pos = torch.rand((batch, variables), generator=generator, dtype=torch.float64) * 0.8 + 0.1
    return pos.to(dtype), (1.0 - pos.to(dtype))


def tolerance(dtype: torch.dtype, depth: int, magnitude: float) -> float:
    """Allowed absolute error of a log value: 1e-9 (relative above 1) in float64; in float32 what its rounding allows."""
    if dtype == torch.float64:
        return 1e-9 * max(1.0, magnitude)
    # a weight close to the root of a float32 circuit carries one rounding for each level, a log one of its size
    return 2.0**-23 * (16 * max(depth, 1) + 8 * magnitude)


def traffic(ir: CircuitIR) -> int:
    """Node values that one upward pass must read and write at least, for one row: the bound (2E + N) of a diagram.

    Products are not stored: each is two reads (or more) of the sum that uses it. So every edge below a product, every
    other edge below a sum, and every other node written once.
    """
    product = ir.kind == PRODUCT
    parents = torch.repeat_interleave(torch.arange(ir.num_nodes), torch.from_numpy(ir.offsets).diff()).numpy()
    return int((product[parents] | ~product[ir.children]).sum()) + int((~product).sum())
