"""Circuits as pictures: SVG drawn here, and text for Graphviz."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from neurosym.circuits.formats.layout import Layout, layout
from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, CircuitIR
from neurosym.errors import InputError

MOST_SVG_NODES = 400
"""Nobody can read a larger drawing."""
MOST_DOT_NODES = 3000
"""Graphviz needs minutes for more."""

LAYER, RADIUS, LEAF, MARGIN, CHARACTER = 62.0, 12.0, 24.0, 18.0, 7.3
"""Pixels: from layer to layer, of a sum or product, of a literal's height, around everything, of one letter."""
PAGE = 1300.0
"""Pixels after which the next circuit starts a new line."""
STYLE = """\
text { font: 12px Helvetica, Arial, sans-serif; text-anchor: middle; dominant-baseline: central; fill: #1f2933 }
.title { font-weight: bold; font-size: 13px; text-anchor: start }
.edge { fill: none; stroke: #8794a3; stroke-width: 1.2 }
.sum { fill: #dbe9fb; stroke: #2f6fbd; stroke-width: 1.4 }
.product { fill: #fdebd0; stroke: #c4760a; stroke-width: 1.4 }
.on { fill: #e3f4e4; stroke: #3f9146 }
.off { fill: #fbe4e4; stroke: #b84a4a }
.weight { fill: #f2f2f2; stroke: #9a9a9a; stroke-dasharray: 3 2 }
.sign { font-size: 17px }
"""


@dataclass(frozen=True)
class Panel:
    """Circuits under one title; ``circuits`` are pairs of a circuit and the names of its variables."""

    title: str
    circuits: tuple[tuple[CircuitIR, tuple[str, ...]], ...]


def as_panels(circuit: CircuitIR | Sequence[Panel], names: Sequence[str] | None = None) -> tuple[Panel, ...]:
    """One circuit, with names or x1, x2, ..., as a panel.

    Raises:
        InputError: not one name a variable.
    """
    if not isinstance(circuit, CircuitIR):
        return tuple(circuit)
    names = tuple(names) if names is not None else tuple(f"x{i + 1}" for i in range(circuit.num_variables))
    if len(names) != circuit.num_variables:
        raise InputError(f"{len(names)} names for {circuit.num_variables} variables; give one name a variable")
    return (Panel("", ((circuit, names),)),)


def _check_size(panels: Sequence[Panel], most: int, option: str, instead: str) -> None:
    nodes = sum(ir.num_nodes for panel in panels for ir, _ in panel.circuits)
    if nodes > most:
        raise InputError(f"{option}: {nodes} nodes are too many to draw (at most {most}); {instead}")


def label(ir: CircuitIR, node: int, names: Sequence[str], negation: str = "¬") -> str:
    """What stands in a node."""
    kind = int(ir.kind[node])
    if kind == LITERAL:
        signed = int(ir.literal[node])
        return ("" if signed > 0 else negation) + names[abs(signed) - 1]
    if kind == CONSTANT:
        return f"{math.exp(float(ir.log_constant[node])):.4g}"
    return "×" if kind == PRODUCT else "+"


def circuit_dot(circuit: CircuitIR | Sequence[Panel], names: Sequence[str] | None = None, option: str = "dot") -> str:
    """Text for Graphviz: one cluster for each panel, children below parents.

    Raises:
        InputError: more than 3,000 nodes.
    """
    panels = as_panels(circuit, names)
    _check_size(panels, MOST_DOT_NODES, option, "leave it out, or save .npz")
    lines = ["digraph circuit {", "  rankdir=TB; node [fontname=Helvetica, fontsize=10];"]
    for p, panel in enumerate(panels):
        lines += [f"  subgraph cluster_{p} {{", f"    label={_quoted(panel.title)};"]
        for c, (ir, known) in enumerate(panel.circuits):
            lines += _dot_nodes(f"n{p}_{c}_", ir, known)
        lines.append("  }")
    return "\n".join([*lines, "}"]) + "\n"


def _dot_nodes(prefix: str, ir: CircuitIR, names: Sequence[str]) -> list[str]:
    lines = []
    for node in range(ir.num_nodes):
        kind = int(ir.kind[node])
        shape = "box" if kind == LITERAL else "plaintext" if kind == CONSTANT else "circle"
        text = "x" if kind == PRODUCT else label(ir, node, names, "~")
        lines.append(f"    {prefix}{node} [label={_quoted(text)}, shape={shape}];")
        lines += [f"    {prefix}{node} -> {prefix}{int(child)};" for child in ir.children_of(node)]
    return lines


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def circuit_svg(circuit: CircuitIR | Sequence[Panel], names: Sequence[str] | None = None, option: str = "svg") -> str:
    """An SVG picture: sums (+), products (×), literals (¬ for not) and weights, the root on top.

    Args:
        circuit: one circuit, or several under titles.
        names: of the circuit's variables; x1, x2, ... when left out.
        option: what the message about a large circuit starts with.

    Raises:
        InputError: more than 400 nodes.
    """
    panels = as_panels(circuit, names)
    _check_size(panels, MOST_SVG_NODES, option, "write .dot for Graphviz (up to 3000), or save .npz")
    body: list[str] = []
    y, widest = MARGIN, 0.0
    for panel in panels:
        if panel.title:
            body.append(f'<text class="title" x="{MARGIN}" y="{y + 8:.1f}">{escape(panel.title)}</text>')
            widest, y = max(widest, CHARACTER * 1.15 * len(panel.title)), y + 30
        x, tallest = MARGIN, 0.0
        for ir, known in panel.circuits:
            placed = layout(ir, lambda node, ir=ir, known=known: _width(ir, node, known))  # type: ignore[misc]
            height = LAYER * (placed.layers - 1) + 2 * RADIUS
            if x > MARGIN and x + placed.width > PAGE:
                x, y, tallest = MARGIN, y + tallest + 2 * MARGIN, 0.0
            body += _svg_circuit(ir, known, placed, x, y + RADIUS)
            x, tallest = x + placed.width + 2.5 * MARGIN, max(tallest, height)
            widest = max(widest, x - 2.5 * MARGIN)
        y += tallest + 2 * MARGIN
    size = f"{widest + MARGIN:.0f}", f"{y - MARGIN:.0f}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}"'
    head += f' viewBox="0 0 {size[0]} {size[1]}">'
    paper = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([head, f"<style>\n{STYLE}</style>", paper, *body, "</svg>"]) + "\n"


def _width(ir: CircuitIR, node: int, names: Sequence[str]) -> float:
    if ir.kind[node] in (LITERAL, CONSTANT):
        return CHARACTER * len(label(ir, node, names)) + 16
    return 2 * RADIUS


def _svg_circuit(ir: CircuitIR, names: Sequence[str], placed: Layout, left: float, top: float) -> list[str]:
    at = [(left + spot.x, top + LAYER * spot.layer) for spot in placed.spots]
    lines = []
    for path in placed.paths:
        points = [at[spot] for spot in path]
        steps = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
        for (x, y), (u, v) in itertools.pairwise(points):
            # vertical tangents at every bend make one smooth curve
            steps.append(f"C{x:.1f} {y + 0.45 * (v - y):.1f} {u:.1f} {v - 0.45 * (v - y):.1f} {u:.1f} {v:.1f}")
        lines.append(f'<path class="edge" d="{" ".join(steps)}"/>')
    for spot, (x, y) in zip(placed.spots, at, strict=True):
        if spot.node >= 0:
            lines += _svg_node(ir, spot.node, names, x, y)
    return lines


def _svg_node(ir: CircuitIR, node: int, names: Sequence[str], x: float, y: float) -> list[str]:
    kind, text = int(ir.kind[node]), escape(label(ir, node, names))
    if kind in (LITERAL, CONSTANT):
        look = "weight" if kind == CONSTANT else "on" if ir.literal[node] > 0 else "off"
        width = _width(ir, node, names)
        shape = f'<rect class="{look}" x="{x - width / 2:.1f}" y="{y - LEAF / 2:.1f}" width="{width:.1f}"'
        return [f'{shape} height="{LEAF:.0f}" rx="5"/>', f'<text x="{x:.1f}" y="{y + 0.5:.1f}">{text}</text>']
    look = "product" if kind == PRODUCT else "sum"
    circle = f'<circle class="{look}" cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS:.0f}"/>'
    return [circle, f'<text class="sign" x="{x:.1f}" y="{y + 0.5:.1f}">{text}</text>']
