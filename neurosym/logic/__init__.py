"""Propositional rules: formulas, parser, semantics, normal forms, and the knowledge bases read from YAML.

Nothing here imports torch. Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurosym.logic.cnf import Cnf as Cnf
    from neurosym.logic.cnf import to_cnf_direct as to_cnf_direct
    from neurosym.logic.cnf import to_cnf_tseitin as to_cnf_tseitin
    from neurosym.logic.dimacs import read_dimacs as read_dimacs
    from neurosym.logic.dimacs import write_dimacs as write_dimacs
    from neurosym.logic.formula import And as And
    from neurosym.logic.formula import Const as Const
    from neurosym.logic.formula import Formula as Formula
    from neurosym.logic.formula import Iff as Iff
    from neurosym.logic.formula import Implies as Implies
    from neurosym.logic.formula import Not as Not
    from neurosym.logic.formula import Or as Or
    from neurosym.logic.formula import Var as Var
    from neurosym.logic.formula import substitute as substitute
    from neurosym.logic.formula import to_text as to_text
    from neurosym.logic.formula import variables as variables
    from neurosym.logic.knowledge import CircuitSpec as CircuitSpec
    from neurosym.logic.knowledge import Group as Group
    from neurosym.logic.knowledge import KnowledgeBase as KnowledgeBase
    from neurosym.logic.knowledge import PartSpec as PartSpec
    from neurosym.logic.knowledge import Rule as Rule
    from neurosym.logic.parser import parse as parse
    from neurosym.logic.semantics import evaluate as evaluate
    from neurosym.logic.semantics import truth_table as truth_table

_HOMES = {
    "formula": ("And", "Const", "Formula", "Iff", "Implies", "Not", "Or", "Var")  # noqa: RUF005
    + ("substitute", "to_text", "variables"),
    "parser": ("parse",),
    "semantics": ("evaluate", "truth_table"),
    "cnf": ("Cnf", "to_cnf_direct", "to_cnf_tseitin"),
    "dimacs": ("read_dimacs", "write_dimacs"),
    "knowledge": ("CircuitSpec", "Group", "KnowledgeBase", "PartSpec", "Rule"),
}
_NAMES = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"neurosym.logic.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'neurosym.logic' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
