"""Calibration and test are exchangeable only with the same noise, and with random numbers that nothing shares."""

from __future__ import annotations

import numpy as np
import pytest

from neurosym.certify.evidence import VoteEvidence
from neurosym.certify.methods import vanilla
from neurosym.certify.scores import uniforms
from neurosym.errors import InputError


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_uniforms_are_not_the_words_of_the_noise(stream: int) -> None:
    """The noise of image 0 starts at counter 0 under the same key."""
    key = np.array([5, stream], dtype=np.uint64)
    words = np.random.Generator(np.random.Philox(counter=np.zeros(4, dtype=np.uint64), key=key)).random(4096)
    assert np.intersect1d(words, uniforms(256, 5, stream)).size == 0


@pytest.mark.parametrize(("trials", "sigma", "field"), [(20, 0.5, "sigma"), (40, 0.25, "trials")])
def test_vanilla_refuses_other_noise(trials: int, sigma: float, field: str) -> None:
    def votes(trials: int, sigma: float) -> VoteEvidence:
        counts = np.tile(np.array([[trials, 0]]), (30, 1))
        return VoteEvidence(counts, trials, sigma, ("a", "b"), labels=np.zeros(30, dtype=np.int64))

    calibrated = vanilla.calibrate(votes(20, 0.25), alpha="0.1")
    assert vanilla.observe(votes(20, 0.25), calibrated)["scores"].shape == (30, 2)
    with pytest.raises(InputError, match=field):
        vanilla.observe(votes(trials, sigma), calibrated)
