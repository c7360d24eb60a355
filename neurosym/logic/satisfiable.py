"""Is there a world that obeys all hard constraints?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neurosym.logic.knowledge import KnowledgeBase


def check_consistent(kb: KnowledgeBase) -> None:
    pass
