"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

METHODS = ("vanilla", "rcp1", "bincp", "colep")
SCORES = ("lac", "aps", "raps", "saps")
CIRCUITS = ("auto", "none", "rules", "exclusive")
BOUNDS = ("exact", "decoupled")
DEVICES = ("auto", "cpu", "cuda")

OutFolder = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results; made if missing.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No table, no progress, no warnings.")]
Device = Annotated[
    str | None, typer.Option("--device", metavar="|".join(DEVICES), help="Where network and circuits run.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run in the same --out.")]
