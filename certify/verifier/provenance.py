"""What a certificate says twice must agree: settings, rows and the tuning record against the certified numbers.

Provenance proves nothing by itself, since nobody can see from here which images and noise were used. But it must not
contradict the certificate, and the rows it names must not be used twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from neurosym.certify.verifier.common import Refused, Run, array, fraction, real

TEXTS = ("method", "bound", "class_kind")
BOXED = ("vrcp_i", "vrcp_c")  # no noise: a configured sigma and number of draws say nothing
NUMBERS = ("alpha", "radius", "sigma")
ONE_DRAW = ("vanilla", "rcp1", "levy_prokhorov")


def agreement(run: Run) -> str:
    """Configuration, rows, rules and tuning record, as far as they are there."""
    record, done = run.certificate.provenance, []
    for name, work in (("config", _config), ("rows", _rows)):
        if isinstance(record.get(name), Mapping):
            work(run, record[name])
            done.append(name)
    rules = record.get("rules_sha256")
    if rules is not None and rules != run.certificate.reasoning.knowledge_digest:
        raise Refused("rules_sha256 is not the sha256 of the rules in the certificate")
    chosen = run.certificate.tuning.get("chosen")
    if isinstance(chosen, Mapping):
        _tuning(run, chosen)
        done.append("tuning")
    return f"{', '.join(done)} agree" if done else "nothing recorded to compare"


def _same(name: str, recorded: object, certified: object) -> None:
    if recorded != certified:
        raise Refused(f"{name} was configured as {recorded!r}, but the certificate says {certified!r}")


def _config(run: Run, config: Mapping[str, Any]) -> None:
    certificate, layer = run.certificate, run.certificate.reasoning
    own = {"method": certificate.method, "bound": layer.bound, "class_kind": layer.class_kind, "norm": certificate.norm}
    names = TEXTS if certificate.method == "levy_prokhorov" else (*TEXTS, "norm")  # that one measures scores
    for name in names:
        if name == "method" and config.get(name) == "auto":
            _automatic(run)
        elif name in config:
            _same(name, config[name], own[name])
    noisy = certificate.method not in BOXED
    for name in NUMBERS:
        if name in config and (noisy or name != "sigma"):
            value = fraction(str(config[name]), f"configured {name}")
            if float(value) != float(fraction(getattr(certificate, name), name)):
                _same(name, config[name], getattr(certificate, name))
    if "trials" in config and noisy:
        _same("trials", 1 if certificate.method in ONE_DRAW else config["trials"], certificate.trials)
    if config.get("circuit", "auto") != "auto":
        _same("circuit", config["circuit"], layer.circuit)
    if "score" in config and (config["score"], certificate.score) != ("aps", "binary_aps"):
        _same("score", config["score"], certificate.score)


def _automatic(run: Run) -> None:
    """A method chosen on the tuning split is the one that the tuning record names."""
    chosen = run.certificate.tuning.get("chosen")
    if not isinstance(chosen, Mapping) or "method" not in chosen:
        raise Refused("method was configured as 'auto', but no choice is recorded")
    _same("method", chosen["method"], run.certificate.method)


def _rows(run: Run, rows: Mapping[str, Any]) -> None:
    """Calibration rows are as many as n, and no image plays two parts."""
    tune, calibrate = (rows.get(name, []) for name in ("tune", "calibrate"))
    if not all(isinstance(part, list) and all(type(row) is int for row in part) for part in (tune, calibrate)):
        raise Refused("the rows are not lists of integers")
    if len(calibrate) != run.certificate.n:
        raise Refused(f"n is {run.certificate.n}, but {len(calibrate)} calibration rows are named")
    points = run.certificate.tuning.get("points")
    if points is not None and points != len(tune):
        raise Refused(f"{points} tuning points, but {len(tune)} tuning rows are named")
    parts = [tune, calibrate]
    files = run.certificate.provenance.get("evidence_sha256")
    if not (isinstance(files, Mapping) and "test" in files):  # else the test rows count in a file of their own
        parts.append(np.asarray(array(run, "index", None, "i")).tolist())
    seen: set[int] = set()
    for part in parts:
        for row in part:
            if row in seen:
                raise Refused(f"row {row} is used twice")
            seen.add(row)


def _tuning(run: Run, chosen: Mapping[str, Any]) -> None:
    layer = run.certificate.reasoning
    if "method" in chosen:
        _same("method", chosen["method"], run.certificate.method)
    if "circuit" in chosen:
        _same("circuit", chosen["circuit"], layer.circuit)
    if "scale" in chosen:
        _same("scale", chosen["scale"], layer.scale.value)
    if run.certificate.method == "bincp" and chosen.get("p") is not None:
        _same("p", float(fraction(str(chosen["p"]), "chosen p")), real(run, "p"))
