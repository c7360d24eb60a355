"""The command line on RSCP, RSCP+ and CAS: what it promises, and that ``verify`` agrees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurosym.certify.evidence import ScoreEvidence, save_evidence


def scores(path: Path, seed: int, n: int) -> Path:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    values = rng.beta(5, 2, (n, 3, 100))
    values[np.arange(n), labels] = rng.beta(1.3, 7, (n, 100))
    save_evidence(path, ScoreEvidence(values, 0.25, ("a", "b", "c"), labels, "categorical"))
    return path


@pytest.mark.parametrize("method", ["rscp", "rscp_plus", "cas"])
def test_certify_verify_predict(run: Any, tmp_path: Path, method: str) -> None:
    cal, test = scores(tmp_path / "cal.npz", 1, 100), scores(tmp_path / "test.npz", 2, 40)
    out, numbers = tmp_path / "out", ("--method", method, "--radius", "0.05", "--alpha", "0.1")
    done = run("certify", "--evidence", str(cal), "--test", str(test), *numbers, "--out", str(out))
    assert done.code == 0, done.err
    words = " ".join(done.out.split())
    assert "90 % of sets hold the true label, attacks up to L2 0.05" in words
    assert ("asymptotic, not proved for these draws" in words) == (method == "rscp")
    assert run("verify", str(out / "certificate.json")).code == 0
    assert run("predict", str(out / "certificate.json"), "--evidence", str(test)).code == 0
