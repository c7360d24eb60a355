"""``verify``: is everything that a certificate claims a consequence of what it records?"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from neurosym.certify.schema import Certificate
from neurosym.certify.verifier import certified, colep, curve, general, means, provenance, shift, votes, vrcp
from neurosym.certify.verifier.common import Check, Run, attempt
from neurosym.errors import InputError

Work = Callable[[Run], str]

_SHARED_FIRST: tuple[tuple[str, Work], ...] = (
    ("checksums", general.checksums),
    ("plain sense", general.sanity),
    ("error budget", general.error_budget),
    ("rank and threshold", general.rank_and_threshold),
)
_SHARED_LAST: tuple[tuple[str, Work], ...] = (
    ("metrics", general.metrics),
    ("certified coverage", certified.certified_coverage),
    ("radius curve", curve.curve),
    ("provenance", provenance.agreement),
)
_BY_METHOD: dict[str, tuple[tuple[str, Work], ...]] = {
    "vanilla": (("derived numbers", votes.vanilla_numbers), ("prediction sets", votes.score_sets)),
    "rcp1": (("derived numbers", votes.rcp1_numbers), ("prediction sets", votes.score_sets)),
    "bincp": (("derived numbers", votes.bincp_numbers), ("prediction sets", votes.bincp_sets)),
    "rscp": (
        ("derived numbers", means.mean_numbers),
        ("calibration scores", means.mean_scores),
        ("prediction sets", means.total_sets),
    ),
    "rscp_plus": (
        ("derived numbers", means.mean_numbers),
        ("calibration scores", means.mean_scores),
        ("prediction sets", means.total_sets),
    ),
    "cas": (
        ("derived numbers", means.cas_numbers),
        ("calibration scores", means.cas_scores),
        ("prediction sets", means.cas_sets),
    ),
    "colep": (
        ("derived numbers", colep.colep_numbers),
        ("calibration scores", colep.calibration_scores),
        ("prediction sets", colep.colep_sets),
    ),
    "levy_prokhorov": (("derived numbers", shift.numbers), ("prediction sets", shift.sets)),
    "vrcp_i": (
        ("derived numbers", vrcp.numbers),
        ("calibration scores", vrcp.clean_scores),
        ("prediction sets", colep.colep_sets),
    ),
    "vrcp_c": (
        ("derived numbers", vrcp.numbers),
        ("calibration scores", vrcp.bounded_scores),
        ("prediction sets", vrcp.clean_sets),
    ),
}


@dataclass(frozen=True)
class VerifyResult:
    """The verdict, and every check with its reason."""

    ok: bool
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.ok)


def _no(name: str, detail: str) -> VerifyResult:
    return VerifyResult(False, (Check(name, False, detail),))


def _arrays(file: Path) -> dict[str, np.ndarray]:
    """Arrays of ``sets.npz``; plain arrays only.

    Raises:
        ValueError, OSError, KeyError, EOFError: the file is missing or damaged.
    """
    with np.load(file, allow_pickle=False) as archive:
        if len(set(archive.files)) != len(archive.files):
            raise ValueError("an array is in it twice")
        return {name: archive[name] for name in archive.files}


def verify(path: str | Path) -> VerifyResult:
    """Re-derive a certificate from what it records.

    Args:
        path: ``certificate.json``, or the folder that holds it; ``sets.npz`` is read from the same folder.

    Returns:
        The verdict with one reason for each check. A well-formed file that claims something wrong is a "no".

    Raises:
        InputError: there is no such file, or it is not JSON.
    """
    import zipfile
    import zlib

    file = Path(path)
    if file.is_dir():
        file = file / "certificate.json"
    try:
        text = file.read_bytes().decode("utf-8")
        document = json.loads(text)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); give the path of a certificate") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({error}); make the certificate again") from None
    except ValueError as error:  # an integer of thousands of digits
        return _no("shape", f"{error}")
    try:
        certificate = Certificate.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "document"
        return _no("shape", f"field {place}: {str(first['msg']).splitlines()[0]}")
    if certificate.method not in _BY_METHOD:
        return _no("shape", f"method {certificate.method!r} is not one of {', '.join(_BY_METHOD)}")
    counts = (x for name, x in certificate.derived.items() if type(x) is int and name != "largest_total")
    most = max([certificate.trials, *counts])
    if most > general.MOST_DRAWS:  # before any check starts on them
        return _no("shape", f"{most} noise draws or votes are more than the {general.MOST_DRAWS} that can be checked")
    if Path(certificate.test.file).name != certificate.test.file:
        return _no("shape", f"test.file {certificate.test.file!r} is not a plain file name")
    try:
        arrays = _arrays(file.parent / certificate.test.file)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        first_line = (str(error).splitlines() or [""])[0]
        return _no("prediction sets", f"{certificate.test.file} cannot be read ({first_line})")
    run = Run(certificate, document, text, arrays)
    plan = (*_SHARED_FIRST, *_BY_METHOD[certificate.method], *_SHARED_LAST)
    checks = tuple(attempt(name, work, run) for name, work in plan)
    return VerifyResult(all(check.ok for check in checks), checks)
