"""The ``.nnf`` format of the c2d compiler, written and read.

::

    c any comment
    nnf V E N            nodes, edges, variables
    L 3                  literal (variables are 1..N, negative for not)
    A 2 0 1              product of nodes 0 and 1;  A 0 is true
    O 5 2 3 4            sum of nodes 3 and 4, which decide variable 5 (0: not told);  O 0 0 is false

The format has no constants. A soft rule's constant becomes a positive literal of an extra variable, declared in a
comment ``c constant VARIABLE HEXFLOAT`` with its log; without such comments other tools see an ordinary d-DNNF.
"""

from __future__ import annotations

import math
from pathlib import Path

from neurosym.circuits.formats.npz import write_atomically
from neurosym.circuits.ir import (
    CONSTANT,
    LITERAL,
    PRODUCT,
    CircuitBuilder,
    CircuitIR,
    check_properties,
)
from neurosym.errors import InputError


def write_nnf(ir: CircuitIR, path: str | Path) -> None:
    """Write a circuit; the file appears only when complete."""
    constants = sorted({float(c) for c, k in zip(ir.log_constant, ir.kind, strict=True) if k == CONSTANT})
    constants = [c for c in constants if math.isfinite(c) and c != 0.0]
    extra = {c: ir.num_variables + 1 + i for i, c in enumerate(constants)}
    lines = [f"c constant {variable} {c.hex()}" for c, variable in extra.items()]
    lines.append(f"nnf {ir.num_nodes} {ir.num_edges} {ir.num_variables + len(extra)}")
    for node in range(ir.num_nodes):
        kids = " ".join(str(int(child)) for child in ir.children_of(node))
        count = ir.children_of(node).size
        if ir.kind[node] == LITERAL:
            lines.append(f"L {int(ir.literal[node])}")
        elif ir.kind[node] == CONSTANT:
            value = float(ir.log_constant[node])
            lines.append("A 0" if value == 0.0 else "O 0 0" if value == -math.inf else f"L {extra[value]}")
        else:
            lines.append(f"A {count} {kids}" if ir.kind[node] == PRODUCT else f"O 0 {count} {kids}")
    write_atomically(Path(path), ("\n".join(lines) + "\n").encode())


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.constants: dict[int, float] = {}
        self.header: tuple[int, int, int] | None = None
        self.nodes: list[int] = []
        self.edges = 0
        self.builder = CircuitBuilder()
        self.bits: list[int] = []

    def fail(self, line: int, why: str) -> InputError:
        return InputError(f"{self.path}:{line}: {why}")

    def integers(self, line: int, fields: list[str]) -> list[int]:
        try:
            return [int(x) for x in fields]
        except ValueError:
            raise self.fail(line, f"{' '.join(fields)!r} should be whole numbers") from None

    def read(self, line: int, text: str) -> None:
        tag, *fields = text.split()
        if tag == "c":
            self.comment(line, fields)
        elif tag == "nnf":
            numbers = self.integers(line, fields)
            if self.header is not None or len(numbers) != 3 or min(numbers) < 0:
                raise self.fail(line, "expected one line 'nnf NODES EDGES VARIABLES'")
            self.header = (numbers[0], numbers[1], numbers[2])
        elif self.header is None:
            raise self.fail(line, "a node before the line 'nnf NODES EDGES VARIABLES'")
        elif tag == "L":
            self.literal(line, self.integers(line, fields))
        elif tag in ("A", "O"):
            numbers = self.integers(line, fields)
            skip = 1 if tag == "A" else 2
            if len(numbers) < skip or numbers[skip - 1] != len(numbers) - skip:
                raise self.fail(line, "the number of children does not fit")
            self.inner(line, tag == "A", numbers[skip:])
        else:
            raise self.fail(line, f"unknown line {tag!r}; nodes are L, A and O")

    def comment(self, line: int, fields: list[str]) -> None:
        if fields[:1] == ["constant"]:
            try:
                self.constants[int(fields[1])] = float.fromhex(fields[2])
            except (ValueError, IndexError, OverflowError):
                raise self.fail(line, "expected 'c constant VARIABLE HEXFLOAT'") from None

    def literal(self, line: int, numbers: list[int]) -> None:
        assert self.header is not None
        if len(numbers) != 1 or numbers[0] == 0 or abs(numbers[0]) > self.header[2]:
            raise self.fail(line, f"expected one literal of the variables 1..{self.header[2]}")
        variable = abs(numbers[0])
        if variable in self.constants:
            if numbers[0] < 0:
                raise self.fail(line, f"variable {variable} is a constant and may not be negated")
            self.add(self.builder.constant(self.constants[variable]), 0)
        else:
            self.add(self.builder.lit(variable - 1, numbers[0] > 0), 1 << (variable - 1))

    def inner(self, line: int, product: bool, kids: list[int]) -> None:
        self.edges += len(kids)
        if any(not 0 <= kid < len(self.nodes) for kid in kids):
            raise self.fail(line, "a child must be an earlier node")
        scopes = [self.bits[kid] for kid in kids]
        scope = 0
        for bits in scopes:
            if product and scope & bits:
                raise self.fail(line, "the product is not decomposable: two children share a variable")
            scope |= bits
        if product:
            self.add(self.builder.conj([self.nodes[kid] for kid in kids]), scope)
        else:
            # smoothing: a child that leaves a variable out counts both of its values
            lifted = [self.builder.conj([self.nodes[k], *self.free(scope & ~self.bits[k])]) for k in kids]
            self.add(self.builder.disj(lifted), scope)

    def free(self, bits: int) -> list[int]:
        return [self.builder.free(v) for v in range(bits.bit_length()) if bits >> v & 1]

    def add(self, node: int, scope: int) -> None:
        self.nodes.append(node)
        self.bits.append(scope)


def read_nnf(path: str | Path) -> CircuitIR:
    """Read a d-DNNF; it is made smooth over all its variables, so any literal weights may be used.

    Raises:
        InputError: the file is not in the format, a product is not decomposable, or (up to 14 variables, where it is
            checked) a sum is not deterministic.
    """
    path = Path(path)
    reader = _Reader(path)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            reader.read(number, line)
    if reader.header is None or not reader.nodes:
        raise InputError(f"{path}: no 'nnf' line or no nodes; is this a c2d .nnf file?")
    nodes, edges, variables = reader.header
    if len(reader.nodes) != nodes or reader.edges != edges:
        raise InputError(
            f"{path}: the header promises {nodes} nodes and {edges} edges, the file has {len(reader.nodes)} and "
            f"{reader.edges}; it may be cut short"
        )
    count = variables - len(reader.constants)
    if any(not count < variable <= variables for variable in reader.constants):
        raise InputError(f"{path}: constants must be the last variables")
    missing = ((1 << count) - 1) & ~reader.bits[-1]
    root = reader.builder.conj([reader.nodes[-1], *reader.free(missing)])
    ir = reader.builder.finish(root, count)
    if check_properties(ir).deterministic is False:
        raise InputError(f"{path}: not deterministic: two children of a sum hold in one world, counts would be wrong")
    return ir
