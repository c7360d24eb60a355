"""Evidence files: ``.npz`` archives without pickled objects, read strictly and written atomically."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from neurosym.certify.evidence import BoxEvidence, ProbEvidence, ScoreEvidence, VoteEvidence
from neurosym.certify.exact import decimal
from neurosym.errors import InputError

FileEvidence = ProbEvidence | VoteEvidence | BoxEvidence | ScoreEvidence
_FIELDS: dict[str, tuple[str, ...]] = {
    "probs": (),
    "votes": ("trials", "sigma"),
    "lower": ("upper", "radius"),
    "scores": ("sigma",),
}
_KINDS = {"probs": ProbEvidence, "votes": VoteEvidence, "lower": BoxEvidence, "scores": ScoreEvidence}
_OPTIONAL: dict[str, tuple[str, ...]] = {"lower": ("probs", "norm")}
_COMMON = ("predicates", "labels", "class_kind", "num_classes")


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise InputError(f"{path}: a single array, not an archive; save it with numpy.savez")
        with loaded as archive:
            fields = {}
            for name in archive.files:
                try:
                    fields[name] = archive[name]
                except ValueError:
                    raise InputError(
                        f"{path}: field '{name}' holds pickled objects, which are never loaded; save plain arrays"
                    ) from None
            return fields
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give a .npz made by save_evidence or numpy.savez") from None
    except InputError:
        raise
    except ValueError:  # numpy's own text advises to unpickle
        raise InputError(f"{path}: not a readable .npz (no archive); save it with numpy.savez") from None
    except (OSError, EOFError, BadZipFile) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable .npz ({first}); save it with numpy.savez") from None


def load_evidence(path: str | Path) -> FileEvidence:
    """Read an evidence file.

    Fields: ``predicates`` str[V], optional ``labels`` int[n], ``class_kind``, ``num_classes``, and exactly one of
    ``probs`` | ``votes, trials, sigma`` | ``lower, upper, radius`` (and, if known, ``probs`` and ``norm``) |
    ``scores, sigma``.

    Raises:
        InputError: one line naming the file, the field and the row at fault.
    """
    path = Path(path)
    fields = _read(path)
    try:
        found = [main for main in _FIELDS if main in fields or (main == "lower" and "upper" in fields)]
        if found == ["probs", "lower"]:  # boxes may bring the answers at the points themselves
            found = ["lower"]
        if len(found) != 1:
            have = " and ".join(f"'{f}'" for f in found) or "none"
            raise InputError(f"found {have}; give exactly one of 'probs', 'votes', 'lower'+'upper', 'scores'")
        wanted = (found[0], *_FIELDS[found[0]])
        for name in ("predicates", *wanted):
            if name not in fields:
                raise InputError(f"field '{name}' is missing; add it ('{found[0]}' needs {', '.join(wanted)})")
        unknown = sorted(set(fields) - set(wanted) - set(_OPTIONAL.get(found[0], ())) - set(_COMMON))
        if unknown:
            raise InputError(f"field '{unknown[0]}' is unknown beside '{found[0]}'; remove or rename it")
        return _build(found[0], fields)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _build(kind: str, fields: dict[str, np.ndarray]) -> FileEvidence:
    if fields["predicates"].dtype.kind != "U" or fields["predicates"].ndim != 1:
        raise InputError("field 'predicates': not a list of strings; save numpy.array(names, dtype=str)")
    common: dict[str, Any] = {
        "predicates": tuple(fields["predicates"].tolist()),
        "labels": fields.get("labels"),
    }
    if "class_kind" in fields:
        common["class_kind"] = str(fields["class_kind"])
    if "num_classes" in fields:
        common["num_classes"] = int(_scalar("num_classes", fields))
    rest: dict[str, Any] = {kind: fields[kind]}
    for name in _FIELDS[kind]:
        if name == "upper":
            rest[name] = fields[name]
        elif name == "trials":
            trials = _scalar(name, fields)
            if trials != int(trials):
                raise InputError(f"field 'trials': {trials} is not a whole number")
            rest[name] = int(trials)
        else:
            rest[name] = _scalar(name, fields)
    if "probs" in _OPTIONAL.get(kind, ()) and "probs" in fields:
        rest["probs"] = fields["probs"]
    if "norm" in _OPTIONAL.get(kind, ()) and "norm" in fields:
        rest["norm"] = str(fields["norm"])
    return _KINDS[kind](**rest, **common)


def _scalar(name: str, fields: dict[str, np.ndarray]) -> float:
    value = fields[name]
    if value.size != 1 or value.dtype.kind not in "iuf":
        raise InputError(f"field '{name}': shape {value.shape} {value.dtype}; give one number")
    # through the decimal text, so that a float32 0.25 and a float64 0.25 are the same number
    return float(decimal(value.item(), f"field '{name}'"))


def save_evidence(path: str | Path, evidence: FileEvidence) -> None:
    """Write an evidence file; atomic: readers see the old file or the whole new one."""
    path = Path(path)
    for main, kind in _KINDS.items():
        if isinstance(evidence, kind):
            fields = {name: np.asarray(getattr(evidence, name)) for name in (main, *_FIELDS[main])}
            for name in _OPTIONAL.get(main, ()):
                if getattr(evidence, name) is not None:
                    fields[name] = np.asarray(getattr(evidence, name))
            break
    else:
        raise InputError(f"{type(evidence).__name__}: only probabilities, votes, boxes and scores can be saved")
    fields["predicates"] = np.array(evidence.predicates, dtype=str)
    fields["class_kind"] = np.array(evidence.class_kind)
    fields["num_classes"] = np.array(evidence.num_classes)
    if evidence.labels is not None:
        fields["labels"] = evidence.labels
    handle, name = tempfile.mkstemp(suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez_compressed(stream, **fields)  # type: ignore[arg-type]  # numpy's stub takes the first for a flag
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
