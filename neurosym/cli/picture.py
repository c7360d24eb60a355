"""A compiled circuit as a Graphviz drawing."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.circuits import CompiledKnowledge, Component

MOST_NODES = 3000
"""Graphviz needs minutes for more, and nobody can read the result."""


def dot(compiled: CompiledKnowledge) -> str:
    """The circuit in Graphviz's language: one cluster for each part, children below parents.

    Raises:
        InputError: too many nodes to draw.
    """
    total = compiled.size["nodes"]
    if total > MOST_NODES:
        raise InputError(f"--picture: {total} nodes are too many to draw (at most {MOST_NODES}); leave it out")
    lines = ["digraph circuit {", "  rankdir=TB; node [fontname=Helvetica, fontsize=10];"]
    for p, part in enumerate(compiled.parts):
        lines += [f"  subgraph cluster_{p} {{", f"    label={_quoted(f'{part.name} (beta {part.beta:.3g})')};"]
        for c, component in enumerate(part.components):
            lines += _component(f"n{p}_{c}_", component, compiled.kb.predicates)
        lines.append("  }")
    return "\n".join([*lines, "}"]) + "\n"


def _component(prefix: str, component: Component, names: tuple[str, ...]) -> list[str]:
    from neurosym.circuits.ir import LITERAL, PRODUCT, SUM

    circuit, lines = component.ir, []
    for node in range(circuit.num_nodes):
        kind = int(circuit.kind[node])
        if kind == LITERAL:
            signed = int(circuit.literal[node])
            name = names[component.variables[abs(signed) - 1]]
            look = f"label={_quoted(name if signed > 0 else '~' + name)}, shape=box"
        elif kind == PRODUCT:
            look = 'label="x", shape=circle'
        elif kind == SUM:
            look = 'label="+", shape=circle'
        else:
            look = f'label="{math.exp(float(circuit.log_constant[node])):.4g}", shape=plaintext'
        lines.append(f"    {prefix}{node} [{look}];")
        lines += [f"    {prefix}{node} -> {prefix}{int(child)};" for child in circuit.children_of(node)]
    return lines


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def write_dot(path: Path, compiled: CompiledKnowledge) -> None:
    """Write :func:`dot`; the file appears whole or not at all."""
    write_whole(path, dot(compiled).encode("utf-8"))


def write_whole(path: Path, content: bytes) -> None:
    """Write next to the target, then rename: a reader sees the old file or the whole new one."""
    handle, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.chmod(name, 0o644)  # mkstemp makes the file private; results are meant to be shared
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
