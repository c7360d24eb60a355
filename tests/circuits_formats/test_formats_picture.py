"""Drawings: everything of the circuit is there, nothing overlaps, large circuits are refused."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

import numpy as np
import pytest

from neurosym.circuits.formats.layout import layout
from neurosym.circuits.formats.picture import Panel, circuit_dot, circuit_svg, label
from neurosym.circuits.ir import CircuitBuilder, CircuitIR
from neurosym.errors import InputError

SVG = "{http://www.w3.org/2000/svg}"


def random_circuit(seed: int, variables: int) -> CircuitIR:
    """A random decision diagram with sharing."""
    rng, builder = np.random.default_rng(seed), CircuitBuilder()
    below = [builder.one]
    for v in range(variables):
        made = []
        for _ in range(3):
            low, high = rng.choice(below, 2)
            weight = builder.constant(float(rng.normal()))
            on, off = builder.lit(v, True), builder.lit(v, False)
            made.append(builder.disj([builder.conj([on, int(high), weight]), builder.conj([off, int(low)])]))
        below = made
    return builder.finish(below[0], variables)


@pytest.mark.parametrize("seed", range(6))
def test_layout(seed: int) -> None:
    ir = random_circuit(seed, 5)
    placed = layout(ir, lambda node: 10.0 + node % 7)
    for layer in range(placed.layers):
        row = sorted((s for s in placed.spots if s.layer == layer), key=lambda s: s.x)
        halves = [(10.0 + s.node % 7) / 2 if s.node >= 0 else 5.0 for s in row]
        ends = [(s.x - h, s.x + h) for s, h in zip(row, halves, strict=True)]
        assert all(a[1] + 14 <= b[0] + 1e-6 for a, b in itertools.pairwise(ends))
        assert all(left >= -1e-6 and right <= placed.width + 1e-6 for left, right in ends)
    edges = sorted((placed.spots[path[0]].node, placed.spots[path[-1]].node) for path in placed.paths)
    parents = np.repeat(np.arange(ir.num_nodes), np.diff(ir.offsets))
    assert edges == sorted(zip(parents.tolist(), ir.children.tolist(), strict=True))
    for path in placed.paths:
        assert [placed.spots[s].layer for s in path] == list(
            range(placed.spots[path[0]].layer, placed.spots[path[-1]].layer + 1)
        )


def test_svg_shows_every_node_and_edge() -> None:
    ir = random_circuit(1, 4)
    names = ("a", "<b>", "c & d", "e")
    root = ElementTree.fromstring(circuit_svg(ir, names))
    assert len(list(root.iter(f"{SVG}path"))) == ir.num_edges
    inner = int((np.diff(ir.offsets) > 0).sum())
    assert len(list(root.iter(f"{SVG}circle"))) == inner
    shown = {text.text for text in root.iter(f"{SVG}text")}
    assert shown == {label(ir, node, names) for node in range(ir.num_nodes)}
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for rect in list(root.iter(f"{SVG}rect"))[1:]:
        assert 0 <= float(rect.attrib["x"]) <= float(rect.attrib["x"]) + float(rect.attrib["width"]) <= width
        assert 0 <= float(rect.attrib["y"]) <= height


def test_a_circuit_of_one_node() -> None:
    builder = CircuitBuilder()
    leaf = builder.finish(builder.lit(0, False), 1)
    assert "¬x1" in circuit_svg(leaf)
    assert '"~x1"' in circuit_dot(leaf)


def test_panels_stand_below_each_other() -> None:
    ir = random_circuit(2, 3)
    names = ("a", "b", "c")
    one, two = (circuit_svg([Panel("first", ((ir, names),))] * k) for k in (1, 2))
    heights = [float(ElementTree.fromstring(text).attrib["height"]) for text in (one, two)]
    assert heights[1] > 1.5 * heights[0]
    assert circuit_dot([Panel("first", ((ir, names),))] * 2).count("subgraph") == 2


def test_refusals() -> None:
    ir = random_circuit(3, 40)
    with pytest.raises(InputError, match=r"too many to draw \(at most 400\); write \.dot"):
        circuit_svg(ir)
    with pytest.raises(InputError, match="2 names for 40 variables"):
        circuit_dot(ir, ("a", "b"))
    assert circuit_dot(ir).count("->") == ir.num_edges
