"""Errors of the circuits package."""

from __future__ import annotations

from collections.abc import Mapping

from neurosym.errors import InputError


class InconsistentEvidence(InputError):
    """The hard rules leave no possible world for the given probabilities (Z = 0).

    Attributes:
        row: index of the first such row (of the leading dimensions flattened).
    """

    def __init__(self, row: int, where: str) -> None:
        super().__init__(
            f"row {row}: the hard rules of {where} leave no world of positive probability; "
            "move the probabilities that are exactly 0 or 1 inwards, or give the rule a finite weight"
        )
        self.row = row


class CompileLimit(InputError):
    """Compilation was stopped at its time, memory or size limit.

    Attributes:
        stats: what was being compiled and how far it got.
    """

    def __init__(self, reason: str, stats: Mapping[str, object]) -> None:
        detail = ", ".join(f"{name} {value}" for name, value in stats.items())
        super().__init__(f"compilation stopped: {reason} ({detail}); raise the limit or split the rules into circuits")
        self.reason = reason
        self.stats = dict(stats)
