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
_PAYLOADS = {"weights": r"weight_\d+", "constants": r"tensor_\d+"}  # raw tensors, not pickles
_ENTRY = re.compile(
    rf"models/{_MODEL}\.json|data/(?:weights|constants|sample_inputs)/{_MODEL}\.pt"
    rf"|data/weights/(?:{_MODEL}_weights_config\.json|weight_\d+)"
    rf"|data/constants/(?:{_MODEL}_constants_config\.json|tensor_\d+)"
    r"|extra/.*|\.data/\w+|archive_format|archive_version|version|byteorder"
)
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
        if not batch.node.expr.is_Symbol:
            raise InputError(f"{where}: its batch size must be {batch.node.expr}; export it with a free batch size")
        bounds = program.range_constraints.get(batch.node.expr)
        low, high = (0.0, math.inf) if bounds is None else (_whole(bounds.lower), _whole(bounds.upper))
        self.least: float = 1 if low <= 2 else low  # export never tells 1 from 2 and more
        self.most: float = high
        sizes = shapes[0].shape[1:]
        self.sizes: tuple[int | None, ...] = tuple(size if isinstance(size, int) else None for size in sizes)

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
    """An end of a range of whole numbers; what is no number stands for infinity."""
    try:
        return int(bound)
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
        raise InputError(
            f"{path}: not a usable exported program ({type(error).__name__}: {lines[0]}); {_MEND}"
        ) from None
    _check_operators(path, program)
    return ExportedNetwork(program, str(path))


def _inspect(path: Path, content: bytes) -> None:
    """Refuse an archive whose loading would run code."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        inner = [name.split("/", 1)[-1] for name in names]
        if len({name.lower() for name in inner}) != len(names):
            raise InputError(f"{path}: has two entries of one name; {_MEND}")
        if f"models/{_MODEL}.json" not in inner:
            raise InputError(f"{path}: not an archive of torch.export of torch 2.8 or later; {_MEND}")
        read = {short: archive.read(name) for short, name in zip(inner, names, strict=True) if _is_read(short)}
    for name in inner:
        if not _ENTRY.fullmatch(name):
            raise InputError(f"{path}: holds {name}, which is not part of one plain exported program; {_MEND}")
    for kind, payload in _PAYLOADS.items():
        config = read.get(f"data/{kind}/{_MODEL}_{kind}_config.json", b'{"config": {}}')
        for name, entry in json.loads(config)["config"].items():
            if entry.get("use_pickle") is not False or not re.fullmatch(payload, str(entry.get("path_name", ""))):
                raise InputError(f"{path}: {name} is pickled, which could run code; {_MEND}, with plain tensors only")
    for folder in ("weights", "constants", "sample_inputs"):
        pickled = read.get(f"data/{folder}/{_MODEL}.pt")
        try:
            if pickled:
                torch.load(io.BytesIO(pickled), weights_only=True)
        except Exception:  # whatever the reason, torch.export would go on to unpickle it
            raise InputError(f"{path}: its {folder} are pickled objects, not tensors; {_MEND}") from None
    for text in _expressions(json.loads(read[f"models/{_MODEL}.json"])):
        plain = _SYMBOL.sub("Symbol(", text)
        if not _PLAIN.fullmatch(plain) or "__" in plain or _CALL.search(plain):
            raise InputError(f"{path}: a shape {text[:60]!r} is not an arithmetic expression; {_MEND}")


def _is_read(name: str) -> bool:
    return name.endswith(("_config.json", f"/{_MODEL}.json", f"/{_MODEL}.pt"))


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
