"""Rules files: YAML read through its node tree, so that every error knows its line.

::

    classes: [stop, yield, keep_right]
    concepts: [octagon, triangle, circle, red]
    rules:
      - stop -> octagon                                     # default weight
      - {rule: "keep_right -> circle & ~red", weight: 4}    # .inf makes it hard
    groups: {shape: {exactly_one: [octagon, triangle, circle]}}
    circuits: {shape: {rules: [0], beta: 0.5}, colour: {rules: [1]}}
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from neurosym.errors import InputError
from neurosym.logic.knowledge import DEFAULT_WEIGHT, GROUP_KINDS, CircuitSpec, Group, KnowledgeBase, Rule
from neurosym.logic.naming import FieldError, FieldPath, closest, named

_KEYS = ("classes", "concepts", "rules", "groups", "circuits")
_RULE_KEYS = ("rule", "weight")
_CIRCUIT_KEYS = ("rules", "beta")
_MAX_DEPTH = 8
"""A rules file nests five levels; deeper input is refused before it can exhaust the interpreter's stack."""
_MAX_NODES = 1_000_000
"""Entries after aliases are expanded."""

_Lines = dict[FieldPath, int]


class _Loader(yaml.SafeLoader):
    """The safe loader with a bound on nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call, unused-ignore]
            raise yaml.composer.ComposerError(problem="nested too deeply for a rules file", problem_mark=mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def load_path(path: str | Path) -> KnowledgeBase:
    """Read and check a rules file (UTF-8).

    Raises:
        InputError: one line, ``path:line: what is wrong and how to mend it``.
    """
    name = os.fspath(path)
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        reason = "no such file" if error.errno == errno.ENOENT else os.strerror(error.errno or 0)
        raise InputError(f"{name}: cannot read the rules file: {reason}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{name}:{line}: not UTF-8 text; save the rules file as UTF-8") from None
    return load_text(text, name)


def load_text(text: str, name: str = "<rules>") -> KnowledgeBase:
    """Read and check the text of a rules file; ``name`` stands for the file in errors."""
    lines: _Lines = {(): 1}
    try:
        data = _plain(text, lines)
        kb = _knowledge_base(data, lines)
        kb.check_consistent()
    except FieldError as error:
        raise InputError(f"{name}:{_line(lines, error.path)}: {error}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{name}:{line}: not YAML: the character {chr(error.character)!r} is not allowed") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join((error.problem or error.context or "syntax error").split())
        raise InputError(f"{name}:{mark.line + 1 if mark else 1}: not a YAML rules file: {problem}") from None
    return kb


def _line(lines: _Lines, path: FieldPath) -> int:
    """Line of the longest known beginning of ``path``."""
    while path not in lines:
        path = path[:-1]
    return lines[path]


def _plain(text: str, lines: _Lines) -> Any:
    """YAML to lists, dicts and scalars; fills ``lines`` with the first line of every entry."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise FieldError("the rules file is empty; it needs at least 'classes: [...]'", ())
        return _Converter(loader, lines).convert(root, ())
    finally:
        loader.dispose()


class _Converter:
    """Turns the node tree into plain data. Aliases are expanded, up to a bound."""

    def __init__(self, loader: _Loader, lines: _Lines) -> None:
        self.loader = loader
        self.lines = lines
        self.nodes = 0

    def convert(self, node: yaml.Node, path: FieldPath) -> Any:
        self.lines[path] = node.start_mark.line + 1
        self.nodes += 1
        if self.nodes > _MAX_NODES or len(path) > _MAX_DEPTH:
            raise FieldError("aliases make this file too large; write the entries out", path)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        kind = "seq" if isinstance(node, yaml.SequenceNode) else "map"
        if node.tag != f"tag:yaml.org,2002:{kind}":
            raise FieldError(f"the YAML tag {node.tag!r} has no place in a rules file; remove it", path)
        if isinstance(node, yaml.SequenceNode):
            return [self.convert(item, (*path, i)) for i, item in enumerate(node.value)]
        return self._mapping(node, path)

    def _scalar(self, node: yaml.ScalarNode, path: FieldPath) -> Any:
        try:
            return self.loader.construct_object(node)  # type: ignore[no-untyped-call, unused-ignore]
        except (ValueError, KeyError, AttributeError, OverflowError):
            # e.g. the date 2024-13-45, '!!int x', a number of 5000 digits
            self.lines[path] = node.start_mark.line + 1
            raise FieldError(f"cannot read {node.value[:40]!r} as a YAML value; put it in quotes", path) from None

    def _mapping(self, node: yaml.Node, path: FieldPath) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            here = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.lines[path] = here
                raise FieldError("a key must be a name; is there a stray '{' or '?'", path)
            key = self._scalar(key_node, path)
            if key in result:
                first = self.lines[(*path, key)]
                self.lines[path] = here
                raise FieldError(f"the key {key!r} is already on line {first}; keep one", path)
            result[key] = self.convert(value_node, (*path, key))
            self.lines[(*path, key)] = here
        return result


def _knowledge_base(data: Any, lines: _Lines) -> KnowledgeBase:
    _check_keys(data, _KEYS, "the rules file", ())
    if "classes" not in data:
        raise FieldError("'classes' is missing; add classes: [name, ...]", ())
    filled = {key: data.get(key) if data.get(key) is not None else () for key in _KEYS}
    for key in ("classes", "concepts", "rules"):
        if not isinstance(filled[key], (list, tuple)):
            raise FieldError(f"{key} must be a list, not {_kind(filled[key])}", (key,))
    groups, circuits = (_named_items(filled[key], key) for key in ("groups", "circuits"))
    return KnowledgeBase(
        classes=filled["classes"],
        concepts=filled["concepts"],
        rules=tuple(_rule(item, i, _line(lines, ("rules", i))) for i, item in enumerate(filled["rules"])),
        groups=tuple(_group(name, item) for name, item in groups),
        circuits=tuple(_circuit(name, item) for name, item in circuits),
    )


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: f"the text {value!r}", type(None): "empty"}
    return names.get(type(value), repr(value))


def _check_keys(item: Any, known: tuple[str, ...], what: str, path: FieldPath) -> None:
    if not isinstance(item, dict):
        raise FieldError(f"{what} must be a mapping with the keys {', '.join(known)}, not {_kind(item)}", path)
    for key in item:
        if key not in known:
            mend = closest(str(key), known) or f"; known keys: {', '.join(known)}"
            raise FieldError(f"unknown key {key!r} in {what}{mend}", (*path, key))


def _named_items(value: Any, key: str) -> list[tuple[str, Any]]:
    if value == ():
        return []
    if not isinstance(value, dict):
        raise FieldError(f"{key} must be a mapping from names to entries, not {_kind(value)}", (key,))
    return [(named(name, f"the name of an entry of {key}", (key, name)), item) for name, item in value.items()]


@contextmanager
def _inside(label: str, path: FieldPath) -> Iterator[None]:
    """Prefix errors with the entry they are about, and extend their path."""
    try:
        yield
    except FieldError as error:
        raise FieldError(f"{label}: {error}", (*path, *error.path)) from None
    except InputError as error:
        raise FieldError(f"{label}: {error}", path) from None


def _rule(item: Any, index: int, line: int) -> Rule:
    label, path = f"rules[{index}]", ("rules", index)
    text, weight = item, DEFAULT_WEIGHT
    if isinstance(item, dict):
        _check_keys(item, _RULE_KEYS, label, path)
        if "rule" not in item:
            raise FieldError(f"{label}: 'rule' is missing", path)
        text, weight = item["rule"], item.get("weight", DEFAULT_WEIGHT)
    if not isinstance(text, str):
        raise FieldError(f"{label} must be text or {{rule:, weight:}}, not {_kind(text)}; put the rule in quotes", path)
    with _inside(label, (*path, "rule")):
        parsed = Rule.from_text(text).formula
    with _inside(label, path):
        return Rule(parsed, weight, line)


def _group(name: str, item: Any) -> Group:
    label, path = f"groups.{name}", ("groups", name)
    _check_keys(item, GROUP_KINDS, label, path)
    if len(item) != 1:
        raise FieldError(f"{label} needs one of {' or '.join(GROUP_KINDS)}", path)
    kind, members = next(iter(item.items()))
    with _inside(label, path):
        return Group(name, kind, members)


def _circuit(name: str, item: Any) -> CircuitSpec:
    label, path = f"circuits.{name}", ("circuits", name)
    _check_keys(item, _CIRCUIT_KEYS, label, path)
    if "rules" not in item:
        raise FieldError(f"{label}: 'rules' is missing; list rule numbers, from 0", path)
    with _inside(label, path):
        return CircuitSpec(name, item["rules"], item.get("beta"))


def dump(kb: KnowledgeBase) -> str:
    """Text of a rules file that reads back to an equal knowledge base."""
    data: dict[str, Any] = {"classes": list(kb.classes)}
    if kb.concepts:
        data["concepts"] = list(kb.concepts)
    if kb.rules:
        data["rules"] = [
            r.text if r.weight == DEFAULT_WEIGHT else {"rule": r.text, "weight": r.weight} for r in kb.rules
        ]
    if kb.groups:
        data["groups"] = {g.name: {g.kind: list(g.members)} for g in kb.groups}
    if kb.circuits:
        data["circuits"] = {
            c.name: {"rules": list(c.rules)} | ({} if c.beta is None else {"beta": c.beta}) for c in kb.circuits
        }
    return yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=2**30)
