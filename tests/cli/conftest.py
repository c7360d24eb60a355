"""Run the command line inside this process, and stand-ins for the slow work behind it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import neurosym.certify
from neurosym.certify.predicting import Prediction
from neurosym.cli.app import main


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Runner = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Runner:
    """``run("verify", path)``: exit status, stdout and stderr of one command."""

    def go(*words: object) -> Ran:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return go


@dataclass(frozen=True)
class FileOptions:
    method: str = "colep"
    score: str = "lac"
    circuit: str = "auto"
    bound: str = "exact"
    alpha: str = "0.1"
    radius: str = "0"
    seed: int = 0
    tune: float = 0.2


@dataclass(frozen=True)
class Outcome:
    summary: dict[str, Any]
    files: dict[str, str]


SUMMARY: dict[str, Any] = {
    "method": "bincp",
    "alpha": "0.1",
    "radius": "0.25",
    "sigma": "0.25",
    "trials": 128,
    "n_tune": 100,
    "n_calibration": 200,
    "n_test": 200,
    "circuit": "exclusive",
    "scale": 0.5,
    "coverage": 0.935,
    "coverage_lower": 0.9,
    "coverage_upper": 0.96,
    "mean_size": 1.25,
    "model_only_mean_size": 1.5,
    "certified_coverage": 0.81,
    "attacked_coverage": 0.917,
    "attacked_images": 24,
    "trivial": False,
    "advice": None,
    "seconds": 12.34,
}


@dataclass
class FakePipeline:
    """Records each call and answers at once. ``error`` is raised instead of answering."""

    summary: dict[str, Any] = field(default_factory=lambda: dict(SUMMARY))
    prediction: Prediction | None = None
    error: BaseException | None = None
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def _called(self, name: str, *words: Any, **named: Any) -> None:
        self.calls.append((name, words, named))
        print("a library talks")  # belongs on stderr, or JSON on stdout is spoilt
        if self.error is not None:
            raise self.error

    def certify_config(self, config: Any, out: Path, *, resume: bool = False, progress: bool = True) -> Outcome:
        self._called("certify_config", config, out, resume=resume, progress=progress)
        return Outcome(self.summary, {"certificate": str(out / "certificate.json")})

    def certify_files(self, cal: Path, test: Path | None, rules: Path | None, options: Any, out: Path) -> Outcome:
        self._called("certify_files", cal, test, rules, options, out)
        return Outcome(self.summary, {"certificate": str(out / "certificate.json")})

    def predict_file(self, certificate: Path, evidence: Path) -> Prediction:
        self._called("predict_file", certificate, evidence)
        assert self.prediction is not None
        return self.prediction

    def predict_images(
        self, config: Any, images: Path, certificate: Path | None, *, progress: bool = True
    ) -> Prediction:
        self._called("predict_images", config, images, certificate, progress=progress)
        assert self.prediction is not None
        return self.prediction


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    """``neurosym.certify.pipeline`` replaced by a recording stand-in."""
    fake = FakePipeline()
    module = ModuleType("neurosym.certify.pipeline")
    for name in ("certify_config", "certify_files", "predict_file", "predict_images"):
        setattr(module, name, getattr(fake, name))
    module.FileOptions = FileOptions  # type: ignore[attr-defined]
    module.demo_config = demo_config  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "neurosym.certify.pipeline", module)
    monkeypatch.setattr(neurosym.certify, "pipeline", module, raising=False)
    return fake


def demo_config() -> Any:
    from neurosym.certify.config import CertifyConfig

    return CertifyConfig.model_validate({"model": "m", "data": {"name": "demo"}, "trials": 128})


def check_refused(ran: Ran, *parts: str, folder: Path | None = None) -> None:
    """Exit status 2, one line on stderr that holds all of ``parts``, nothing on stdout, nothing in ``folder``."""
    assert ran.code == 2, ran
    lines = ran.err.strip().splitlines()
    assert len(lines) == 1, ran.err
    assert lines[0].startswith("neurosym: error: ")
    for part in parts:
        assert part in lines[0], (part, lines[0])
    assert ran.out == ""
    if folder is not None:
        assert not folder.exists() or not list(folder.iterdir())


@pytest.fixture
def refused() -> Callable[..., None]:
    """:func:`check_refused`."""
    return check_refused
