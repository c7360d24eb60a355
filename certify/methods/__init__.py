"""The conformal methods, one module each, all with ``calibrate``, ``observe``, ``predict`` and ``preference``.

This catalogue imports none of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from neurosym.errors import InputError

Needs = Literal["answers", "draws", "votes", "boxes"]


@dataclass(frozen=True)
class MethodFacts:
    """What the command line, the configuration and the report say of a method.

    Attributes:
        title: for readers of a report.
        needs: what it calibrates on: answers of the network without noise (or any one score for each point), single noise
            draws, votes under noise (or boxes of probabilities), or boxes only.
        draws: noise draws used for each point; None for as many as there are.
        norms: distances in which its attacker may be measured.
    """

    title: str
    needs: Needs
    draws: int | None = None
    norms: tuple[str, ...] = ("l2",)


CATALOGUE: Mapping[str, MethodFacts] = {
    "vanilla": MethodFacts("split conformal prediction (no attacker)", "answers", 1),
    "rcp1": MethodFacts("RCP1, one noise draw for each image", "draws", 1),
    "bincp": MethodFacts("BinCP, binarised smoothing votes", "draws"),
    "rscp": MethodFacts("RSCP, smoothed mean scores (asymptotic: noise error is not paid for)", "draws"),
    "rscp_plus": MethodFacts("RSCP+, smoothed mean scores with finite-sample bounds", "draws"),
    "cas": MethodFacts("CAS, bounds from the distribution of the score under noise", "draws"),
    "colep": MethodFacts("COLEP, predicate evidence through rules", "votes"),
    "vrcp_i": MethodFacts("VRCP-I, verified bounds of each test image", "boxes", norms=("l2", "linf")),
    "levy_prokhorov": MethodFacts("Levy-Prokhorov, shifted distribution of scores", "answers", 1, ("score",)),
    "vrcp_c": MethodFacts("VRCP-C, verified bounds of the calibration images", "boxes", norms=("l2", "linf")),
}
METHODS = tuple(CATALOGUE)
AUTO = "auto"
"""In place of a method: the one with the smallest sets on the tuning split."""
CHOICES = (*METHODS, AUTO)
ONE_DRAW = tuple(name for name, facts in CATALOGUE.items() if facts.draws == 1)
"""Methods that use one noise draw a point."""
MEANS = ("rscp", "rscp_plus", "cas")
"""Methods on the mean or the distribution of a score under noise."""
BOXED = tuple(name for name, facts in CATALOGUE.items() if facts.needs == "boxes")
"""Methods that rest on deterministic bounds, without noise."""


def method(name: str) -> ModuleType:
    """The module of a method.

    Raises:
        InputError: there is none of that name.
    """
    if name not in CATALOGUE:
        raise InputError(f"method: {name!r}; choose one of {', '.join(METHODS)}")
    return importlib.import_module(f"neurosym.certify.methods.{name}")
