"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurosym.certify.methods import CHOICES as METHODS

SCORES = ("lac", "aps", "raps", "saps")
CIRCUITS = ("auto", "none", "rules", "exclusive")
BOUNDS = ("exact", "decoupled")
NORMS = ("l2", "linf")
RHO_HELP = "levy_prokhorov: share of the scores that may move anywhere; --radius is how far all may."
DEVICES = ("auto", "cpu", "cuda")

OutFolder = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results; made if missing.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No table, no progress, no warnings.")]
Device = Annotated[
    str | None, typer.Option("--device", metavar="|".join(DEVICES), help="Where network and circuits run.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run in the same --out.")]

ConfigFile = Annotated[
    Path | None, typer.Argument(metavar="CONFIG.yaml", help="Network, data, rules, threat and method.")
]
RequiredOut = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder for the results. Required.")]
Demo = Annotated[bool, typer.Option("--demo", help="Certify the bundled demonstration, offline.")]
Evidence = Annotated[
    Path | None, typer.Option("--evidence", metavar="CAL.npz", help="Calibration evidence, with labels.")
]
TestEvidence = Annotated[
    Path | None,
    typer.Option("--test", metavar="TEST.npz", help="Evidence to predict sets for; half of CAL if left out."),
]
Rules = Annotated[
    Path | None, typer.Option("--rules", metavar="RULES.yaml", help="Rules over the evidence's predicates.")
]
Method = Annotated[
    str | None, typer.Option("--method", metavar="METHOD", help=f"Conformal method: {', '.join(METHODS)}.")
]
Score = Annotated[str | None, typer.Option("--score", metavar="|".join(SCORES), help="Conformity score.")]
Radius = Annotated[str | None, typer.Option("--radius", metavar="R", help="Radius of the attack, pixels in [0, 1].")]
Norm = Annotated[
    str | None,
    typer.Option("--norm", metavar="|".join(NORMS), help="Distance of the radius: l2 unless told otherwise."),
]
Rho = Annotated[str | None, typer.Option("--rho", metavar="SHARE", help=RHO_HELP)]
Alpha = Annotated[str | None, typer.Option("--alpha", metavar="A", help="Total miscoverage; 0.1 promises 90 %.")]
Sigma = Annotated[
    str | None, typer.Option("--sigma", metavar="S", help="Standard deviation of the noise, pixels in [0, 1].")
]
Trials = Annotated[int | None, typer.Option("--trials", metavar="N", help="Noise draws for each image.")]
Circuit = Annotated[str | None, typer.Option("--circuit", metavar="|".join(CIRCUITS), help="How rules are applied.")]
Bound = Annotated[str | None, typer.Option("--bound", metavar="|".join(BOUNDS), help="Bounds over boxes (colep).")]
Tune = Annotated[
    str | None,
    typer.Option("--tune", metavar="SHARE", help="Share of the evidence that picks circuit and parameters."),
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of everything random.")]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", help="Processes that draw noise on the CPU.")]
