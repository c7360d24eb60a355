"""A compiled circuit in a file, by the file's suffix."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neurosym.circuits import CompiledKnowledge

PICTURES = (".dot", ".gv", ".svg")
CIRCUITS = (".npz", ".nnf", *PICTURES)
"""Suffixes of ``--picture`` and ``--out``."""


def write_circuit(path: Path, compiled: CompiledKnowledge, option: str) -> None:
    """Write what the suffix of ``path`` says; the file appears whole or not at all.

    Raises:
        InputError: too many nodes to draw, or several circuits for ``.nnf``.
    """
    from neurosym.circuits.formats.picture import circuit_dot, circuit_svg
    from neurosym.circuits.formats.whole import one_circuit, panels

    if path.suffix == ".npz":
        from neurosym import circuits

        circuits.save(compiled, path)
    elif path.suffix == ".nnf":
        from neurosym.circuits.formats.nnf import write_nnf

        write_nnf(one_circuit(compiled), path, names=compiled.kb.predicates)
    else:
        draw = circuit_svg if path.suffix == ".svg" else circuit_dot
        write_whole(path, draw(panels(compiled), option=option).encode("utf-8"))


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
