"""Programs of ``torch.export`` from files that are looked at before they are loaded.

``torch.export.load`` unpickles where the archive asks for it, loads native libraries, and evaluates the text of
symbolic shapes. An archive that asks for any of this is refused.
"""

from __future__ import annotations

import io
import json
import math
import operator
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from neurosym.errors import InputError

_MODEL = "model"  # torch.export.save stores one program under this name
_MEND = "export it again with torch.export.save"
# Symbolic shapes as sympy writes them: names, numbers, operators, calls of capitalised functions; nothing quoted
# but the name of a symbol, no attributes, no other calls.
_SYMBOL = re.compile(r"Symbol\('[A-Za-z]\w*'")
_PLAIN = re.compile(r"(?:[\w\s+\-*/%(),<>=&|~]|(?<=\d)\.(?=\d))*")
_CALL = re.compile(r"(?<![A-Za-z0-9_])[a-z_]\w*\s*\(")


class ExportedNetwork(nn.Module):
    """An exported program as a module that checks its inputs' shapes (the program's own guards are code and are
    left out)."""

    def __init__(self, program: Any, where: str) -> None:
        super().__init__()
        self.where = where
        try:
            self.program = program.module(check_guards=False)
        except TypeError:  # torch < 2.9 has no guards to leave out
            self.program = program.module()
        names = program.graph_signature.user_inputs
        shapes = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
        if len(shapes) != 1 or not isinstance(shapes[0], Tensor) or shapes[0].ndim != 4:
            raise InputError(f"{where}: the program must take one image batch [B, 3, H, W]; {_MEND}")
        batch = shapes[0].shape[0]
        if isinstance(batch, int):
            raise InputError(
                f"{where}: exported for batches of {batch} only; export it again with "
                'dynamic_shapes=({0: torch.export.Dim("batch")},)'
            )
        bounds = program.range_constraints.get(batch.node.expr)
        low, high = (0, math.inf) if bounds is None else (_whole(bounds.lower), _whole(bounds.upper))
        self.least, self.most = (1 if low <= 2 else low), high  # export never tells 1 from 2 and more
        self.sizes = tuple(size if isinstance(size, int) else None for size in shapes[0].shape[1:])

    def train(self, mode: bool = True) -> ExportedNetwork:
        """An exported program keeps the mode in which it was exported."""
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Any:
        wanted = zip(self.sizes, images.shape[1:], strict=True)
        if any(size not in (None, given) for size, given in wanted):
            raise InputError(
                f"{self.where}: exported for images {list(self.sizes)}, not {list(images.shape[1:])}; resize them"
            )
        if not self.least <= len(images) <= self.most:
            raise InputError(f"{self.where}: exported for batches of {self.least} to {self.most}, not {len(images)}")
        return self.program(images)


def _whole(bound: Any) -> float:
    try:
        return float(bound)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return math.inf


def load_exported(file: str | Path) -> ExportedNetwork:
    """The program of a ``.pt2`` file.

    Raises:
        InputError: missing, damaged or older file; one that would have to be unpickled or holds native code; one
            with a fixed batch size.
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(f"{path}: no such exported program")
    content = path.read_bytes()
    try:
        _inspect(path, content)
        program = torch.export.load(io.BytesIO(content))
    except InputError:
        raise
    except Exception as error:  # torch.export meets broken archives with many kinds of error
        lines = str(error).strip().splitlines() or [""]
        raise InputError(f"{path}: not a usable exported program ({type(error).__name__}: {lines[0]}); {_MEND}") from None
    _check_operators(path, program)
    return ExportedNetwork(program, str(path))


def _inspect(path: Path, content: bytes) -> None:
    """Refuse an archive whose loading would run code."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        if len({name.lower() for name in names}) != len(names):
            raise InputError(f"{path}: has two entries of one name; {_MEND}")
        inner = [name.split("/", 1)[-1] for name in names]
        if f"models/{_MODEL}.json" not in inner:
            raise InputError(f"{path}: not an archive of torch.export of torch 2.8 or later; {_MEND}")
        read = {short: archive.read(name) for short, name in zip(inner, names, strict=True) if _is_read(short)}
    allowed = ("data/weights/", "data/constants/", "data/sample_inputs/", "models/", "extra/", ".data/")
    for name in inner:
        if not name.startswith(allowed) and name not in ("archive_format", "archive_version", "version", "byteorder"):
            raise InputError(f"{path}: holds {name}, which is not part of a plain exported program; {_MEND}")
        if name.startswith("models/") and name != f"models/{_MODEL}.json":
            raise InputError(f"{path}: holds several programs; save one alone with torch.export.save")
    for kind in ("weights", "constants"):
        config = read.get(f"data/{kind}/{_MODEL}_{kind}_config.json")
        if config is None:
            raise InputError(f"{path}: its {kind} are pickled in an older format; {_MEND} of torch 2.9 or later")
        for name, entry in json.loads(config)["config"].items():
            plain = str(entry.get("path_name", "")).startswith(("weight_", "tensor_"))
            if entry.get("use_pickle") is not False or not plain:
                raise InputError(f"{path}: {name} is pickled, which could run code; {_MEND}, with plain tensors only")
    inputs = read.get(f"data/sample_inputs/{_MODEL}.pt", b"")
    if inputs:
        try:
            torch.load(io.BytesIO(inputs), weights_only=True)
        except Exception:  # whatever the reason, loading would fall back to a pickle
            raise InputError(f"{path}: its sample inputs are pickled objects, not tensors; {_MEND}") from None
    for text in _expressions(json.loads(read[f"models/{_MODEL}.json"])):
        plain = _SYMBOL.sub("Symbol(", text)
        if not _PLAIN.fullmatch(plain) or "__" in plain or _CALL.search(plain):
            raise InputError(f"{path}: a shape {text[:60]!r} is not an arithmetic expression; {_MEND}")


def _is_read(name: str) -> bool:
    return name.endswith("_config.json") or name in (f"models/{_MODEL}.json", f"data/sample_inputs/{_MODEL}.pt")


def _expressions(value: Any) -> Iterator[str]:
    """Every text under a key ``expr_str``, and names of symbols among the range constraints."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "expr_str":
                yield str(inner)
            elif key == "range_constraints" and isinstance(inner, dict):
                yield from map(str, inner)
            yield from _expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _expressions(inner)


def _check_operators(path: Path, program: Any) -> None:
    """Only operators of torch and arithmetic on shapes may be called."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            target = cast(Any, node.target)
            if node.op == "call_function" and not (
                isinstance(target, torch._ops.OperatorBase)
                or getattr(target, "__module__", None) in ("_operator", "math")
                or getattr(operator, getattr(target, "__name__", ""), None) is target
            ):
                raise InputError(f"{path}: calls {target}, which is not an operator of torch; {_MEND}")
