"""``neurosym compile``: what a rules file costs as a circuit."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurosym.cli import checks, options
from neurosym.cli.console import emit_files, emit_json, emit_table, number, working
from neurosym.cli.picture import CIRCUITS, PICTURES, write_circuit
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.circuits import CompiledKnowledge, Part
    from neurosym.logic import KnowledgeBase

COMPILE_EXAMPLES = """\b
Examples:
  neurosym compile rules.yaml
  neurosym compile rules.yaml --circuit exclusive --out circuit.npz
  neurosym compile rules.yaml --circuit exclusive --out circuit.nnf
  neurosym compile rules.yaml --out circuit.npz --picture rules.svg

\b
A rules.yaml:
  classes: [stop, yield]
  concepts: [octagon, triangle, red]
  rules:
    - stop -> octagon
    - {rule: "yield -> triangle & red", weight: 4}   # .inf: hard
  groups: {shape: {exactly_one: [octagon, triangle]}}

\b
--out by its suffix: .npz (read back by neurosym), .nnf (one circuit for c2d's
tools), .svg or .dot. The picture shows products (x), sums (+), literals and
rule weights; .svg up to 400 nodes, .dot (for Graphviz) up to 3000.
"""

KINDS = ("rules", "exclusive")
CLASS_KINDS = ("binary", "categorical")
EXACT_COUNT = 10**12
"""Largest model count shown: the logarithm of a smaller one, a double, rounds to the right whole number."""


def compile_rules(
    rules: Annotated[Path, typer.Argument(metavar="RULES.yaml", help="Classes, concepts and rules.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Save it: .npz .nnf .svg .dot")] = None,
    picture: Annotated[Path | None, typer.Option("--picture", metavar="FILE", help="Draw it: .svg or .dot")] = None,
    circuit: Annotated[
        str, typer.Option("--circuit", metavar="|".join(KINDS), help="rules, or rules and exactly one class.")
    ] = "rules",
    class_kind: Annotated[
        str, typer.Option("--class-kind", metavar="|".join(CLASS_KINDS), help="One sensor a class, or a softmax.")
    ] = "binary",
    max_seconds: Annotated[float, typer.Option("--max-seconds", metavar="S", help="Give up after this time.")] = 60.0,
    max_nodes: Annotated[int, typer.Option("--max-nodes", metavar="N", help="Give up at this size.")] = 2_000_000,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compile rules to circuits and say how large they are."""
    checks.choice("--circuit", circuit, KINDS)
    checks.choice("--class-kind", class_kind, CLASS_KINDS)
    if not max_seconds > 0:
        raise InputError(f"--max-seconds: {max_seconds:g} is not positive; write a number of seconds such as 60")
    checks.whole("--max-nodes", max_nodes, 1)
    checks.existing_file(rules, "give a rules file (YAML); see neurosym compile --help")
    for path, option, suffixes in ((out, "--out", CIRCUITS), (picture, "--picture", PICTURES)):
        if path is not None:
            checks.writable_file(path, option)
            if path.suffix not in suffixes:
                raise InputError(f"{option} {path}: name a file that ends in {', '.join(suffixes)}")
    with working(quiet):
        from neurosym import circuits
        from neurosym.logic import KnowledgeBase
        from neurosym.logic.satisfiable import check_some_class

        kb = KnowledgeBase.from_yaml(rules)
        if circuit == "exclusive":
            check_some_class(kb)
        build = circuits.compile  # imports torch, which is not what is timed
        start = time.perf_counter()
        compiled = build(
            kb,
            circuit,  # type: ignore[arg-type]  # checked above
            class_kind,  # type: ignore[arg-type]
            max_seconds=max_seconds,
            max_nodes=max_nodes,
        )
        seconds = time.perf_counter() - start
        facts = _facts(kb, compiled, seconds)
        for path, option, what in ((picture, "--picture", "picture"), (out, "--out", "circuit")):
            if path is not None:
                write_circuit(path, compiled, option)
                facts["files"][what] = str(path)
    if as_json:
        emit_json(facts)
    elif not quiet:
        _show(facts)


def _facts(kb: KnowledgeBase, compiled: CompiledKnowledge, seconds: float) -> dict[str, Any]:
    worlds = 2**kb.num_predicates
    return {
        "rules": len(kb.rules),
        "hard_rules": sum(rule.hard for rule in kb.rules),
        "groups": len(kb.groups),
        "classes": kb.num_classes,
        "predicates": kb.num_predicates,
        "sha256": kb.digest(),
        "circuit": compiled.circuit,
        "parts": [_part(part, kb) for part in compiled.parts],
        "size": compiled.size,
        "seconds": seconds,
        "worlds": worlds,
        "worlds_allowed": count_worlds(kb, every_rule=False),
        "worlds_obeying": count_worlds(kb, every_rule=True),
        "files": {},
    }


def _part(part: Part, kb: KnowledgeBase) -> dict[str, Any]:
    return {
        "name": part.name,
        "beta": part.beta,
        "components": len(part.components),
        "kinds": dict(Counter(component.kind for component in part.components)),
        "predicates": int(part.mentions.sum()),
        "nodes": sum(component.ir.num_nodes for component in part.components),
        "edges": sum(component.ir.num_edges for component in part.components),
        "depth": max((component.ir.depth for component in part.components), default=0),
    }


def count_worlds(kb: KnowledgeBase, *, every_rule: bool) -> int | None:
    """Worlds that obey the hard rules and groups, and with ``every_rule`` the soft rules too.

    The count is the circuit's value at literal weights 1 (Darwiche and Marquis 2002), with no rule left soft. None
    where it is too large to be exact, or where the circuit is too large to compile.
    """
    import torch

    from neurosym import circuits

    if every_rule:
        rules = tuple(replace(rule, weight=float("inf")) for rule in kb.rules)
    else:
        rules = tuple(rule for rule in kb.rules if rule.hard)
    try:
        compiled = circuits.compile(replace(kb, rules=rules, circuits=()), max_seconds=20.0)
    except circuits.CompileLimit:
        return None
    if any(part.log_constant == -float("inf") for part in compiled.parts):
        return 0
    count, inside = 1, 0
    for part in compiled.parts:
        for component in part.components:
            ones = torch.ones(len(component.variables), dtype=torch.float64)
            factor = float(component.log_count(ones, ones).exp())
            if factor > EXACT_COUNT:
                return None
            count, inside = count * round(factor), inside + len(component.variables)
    return count * 2 ** (kb.num_predicates - inside)


def _show(facts: dict[str, Any]) -> None:
    rows = [
        (
            part["name"],
            f"{part['beta']:.3g}",
            str(part["predicates"]),
            ", ".join(f"{count} {kind}" for kind, count in part["kinds"].items()) or "-",
            str(part["nodes"]),
            str(part["edges"]),
            str(part["depth"]),
        )
        for part in facts["parts"]
    ]
    emit_table(rows, header=("part", "beta", "predicates", "components", "nodes", "edges", "depth"))

    def share(count: int | None) -> str:
        return "too many to count" if count is None else f"{count:,} of {facts['worlds']:,}"

    hard = f"{facts['rules']} rules, {facts['hard_rules']} hard; {facts['groups']} groups"
    rows_below = [
        ("rules", f"{hard}; {facts['predicates']} predicates, {facts['classes']} of them classes"),
        ("worlds allowed", share(facts["worlds_allowed"])),
        ("worlds obeying every rule", share(facts["worlds_obeying"])),
        ("seconds", number(facts["seconds"], 3)),
    ]
    emit_table(rows_below)
    emit_files(facts["files"])
