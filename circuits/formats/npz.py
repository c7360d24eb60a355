"""Compiled knowledge in one ``.npz`` file: the rules as text and the circuits as arrays; nothing is unpickled."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.compile import CompiledKnowledge, component_from_circuit, part_specs
from neurosym.circuits.formats.arrays import ARRAYS, find_fault
from neurosym.circuits.formats.files import write_atomically
from neurosym.circuits.ir import CircuitIR
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase

FORMAT = "neurosym-circuit"
VERSION = 1


def save(compiled: CompiledKnowledge, path: str | Path) -> None:
    """Write compiled knowledge; see :func:`load`."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "circuit": compiled.circuit,
        "class_kind": compiled.class_kind,
        "rules": compiled.kb.to_yaml(),
        "digest": compiled.kb.digest(),
        "kinds": [[component.kind for component in part.components] for part in compiled.parts],
    }
    arrays: dict[str, NDArray[Any]] = {"header": np.array(json.dumps(header))}
    for r, part in enumerate(compiled.parts):
        for i, component in enumerate(part.components):
            for name in ARRAYS:
                arrays[f"{r}.{i}.{name}"] = getattr(component.ir, name)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(Path(path), buffer.getvalue())


def load(path: str | Path) -> CompiledKnowledge:
    """Read what :func:`save` wrote.

    Raises:
        InputError: not such a file, another version, or damaged.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(str(arrays["header"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as a compiled circuit: {error}") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path}: not a compiled circuit; write one with neurosym compile")
    if header.get("version") != VERSION:
        raise InputError(f"{path}: format version {header.get('version')}, expected {VERSION}; compile the rules again")
    kb = KnowledgeBase.from_text(header["rules"], name=str(path))
    if kb.digest() != header["digest"]:
        raise InputError(f"{path}: the rules do not match their digest; compile them again")
    parts = []
    for r, spec in enumerate(part_specs(kb, header["circuit"])):
        components = []
        for i, (factors, members) in enumerate(spec.blocks):
            ir = _read_ir(path, arrays, f"{r}.{i}", len(members))
            components.append(component_from_circuit(factors, members, ir, header["kinds"][r][i]))
        parts.append(spec.part(tuple(components)))
    return CompiledKnowledge(kb=kb, circuit=header["circuit"], class_kind=header["class_kind"], parts=tuple(parts))


def _read_ir(path: Path, arrays: dict[str, NDArray[Any]], prefix: str, num_variables: int) -> CircuitIR:
    try:
        found = {name: arrays[f"{prefix}.{name}"] for name in ARRAYS}
    except KeyError as missing:
        raise InputError(f"{path}: array {missing} is missing; compile the rules again") from None
    ir = CircuitIR(num_variables=num_variables, **found)
    fault = find_fault(ir)
    if fault:
        raise InputError(f"{path}: circuit {prefix}: {fault}; compile the rules again")
    return ir
