"""neurosym: rules compiled to circuits, and predictions whose coverage is certified under attack.

The sub-packages are imported on first use, so that ``import neurosym`` costs nothing beyond the standard library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurosym.logic.knowledge import KnowledgeBase as KnowledgeBase

__version__ = "0.1.0.dev0"

_SUBMODULES = ("certify", "circuits", "cli", "errors", "logic", "models")
_NAMES = {"KnowledgeBase": "neurosym.logic.knowledge", "InputError": "neurosym.errors"}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"neurosym.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'neurosym' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBMODULES, *_NAMES])
