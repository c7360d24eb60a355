"""``neurosym verify``: derive every number of a certificate again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neurosym.cli import checks, options
from neurosym.cli.console import emit_json, emit_table, working
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.certify.verifier import VerifyResult

VERIFY_EXAMPLES = """\b
Examples:
  neurosym verify out/demo/certificate.json
  neurosym verify out/demo                   the folder will do
  neurosym verify out/demo --json | jq .ok   for scripts

\b
Nothing is trusted because of a checksum alone: thresholds, budgets and
sets are computed again at 50 digits from what the certificate records.
sets.npz must lie beside the certificate.
Exit status: 0 it holds, 1 a check failed, 2 no such file or not JSON.
"""


def verify(
    certificate: Annotated[Path, typer.Argument(metavar="CERTIFICATE", help="certificate.json, or its folder.")],
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check a certificate, from the certificate alone."""
    path = certificate / "certificate.json" if certificate.is_dir() else certificate
    checks.existing_file(path, "give a certificate.json made by neurosym certify")
    with working(quiet):
        from neurosym.certify.verifier import verify as check

        result = check(path)
    if as_json:
        rows = [{"name": item.name, "ok": item.ok, "detail": item.detail} for item in result.checks]
        emit_json({"ok": result.ok, "certificate": path, "checks": rows})
    elif not quiet:
        _show(result, path)
    if not result.ok:
        raise typer.Exit(1)


def _show(result: VerifyResult, path: Path) -> None:
    failed = [item for item in result.checks if not item.ok]
    passed = [item.name for item in result.checks if item.ok]
    if not failed and not result.ok:
        raise InputError(f"{path}: the verifier said no but named no check; report this")
    verdict = f"holds: {len(passed)} checks passed" if result.ok else "DOES NOT HOLD"
    print(f"{path}: {verdict}")
    if failed:
        emit_table([(item.name, item.detail) for item in failed], header=("failed check", "reason"))
    if passed:
        emit_table([("passed", ", ".join(passed))])
