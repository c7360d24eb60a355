"""The classifier object and the tuning split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gaussian_world import three_classes

from neurosym.certify import RobustConformalClassifier
from neurosym.certify.classifier import fill_empty
from neurosym.certify.evidence import CachedSamples, ProbEvidence, ScoreEvidence, encode, votes_from_samples
from neurosym.certify.methods import bincp, rcp1
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.tuning import as_record, candidates, tune
from neurosym.errors import InputError
from neurosym.logic import KnowledgeBase

NAMES = ("a", "b", "c", "left", "right")
KB = KnowledgeBase.from_text(three_classes()[1])


def samples(seed: int, n: int, trials: int = 40) -> CachedSamples:
    world, _ = three_classes()
    rng = np.random.default_rng(seed)
    x, y = world.sample(rng, n)
    return CachedSamples(encode(world.noisy_soft(rng, x, 0.5, trials)), 0.5, NAMES, y, num_classes=3)


@pytest.mark.parametrize("circuit", ["auto", "none", "rules", "exclusive"])
@pytest.mark.parametrize("method", ["vanilla", "rcp1", "bincp", "colep"])
def test_every_method_and_circuit(method: str, circuit: Any) -> None:
    radius = "0" if method == "vanilla" else "0.1"
    clf = RobustConformalClassifier(method, "0.2", radius, KB, circuit=circuit, sigma="0.5")
    sets = clf.conformalize(samples(0, 150)).predict_set(samples(1, 100))
    assert sets.shape == (100, 3)
    assert sets.dtype == bool
    assert sets[np.arange(100), samples(1, 100).labels].mean() > 0.7
    assert clf.calibrated is not None
    assert clf.calibrated.reasoning["circuit"] == ("exclusive" if circuit == "auto" else circuit)


@pytest.mark.parametrize("score", ["aps", "raps", "saps"])
@pytest.mark.parametrize("method", ["vanilla", "rcp1", "bincp", "colep"])
def test_ranking_scores_with_the_exclusive_circuit(method: str, score: str) -> None:
    radius = "0" if method == "vanilla" else "0.05"
    clf = RobustConformalClassifier(method, "0.2", radius, KB, score=score, circuit="exclusive")
    test = samples(1, 200)
    sets = clf.conformalize(samples(0, 200, 60)).predict_set(samples(1, 200, 60))
    assert sets[np.arange(200), test.labels].mean() > 0.7


def test_the_five_line_example_needs_no_rules() -> None:
    clf = RobustConformalClassifier(method="bincp", alpha=0.1, radius=0.1)
    cal = samples(0, 200)
    assert clf.conformalize(cal, cal.labels).predict_set(samples(1, 20)).shape == (20, 3)


def test_same_seed_same_sets_and_other_uniforms_otherwise() -> None:
    def sets(seed: int) -> np.ndarray:
        clf = RobustConformalClassifier("rcp1", "0.2", "0.1", KB, score="aps", circuit="exclusive", seed=seed)
        return clf.conformalize(samples(0, 150)).predict_set(samples(1, 400))

    assert np.array_equal(sets(1), sets(1))
    assert not np.array_equal(sets(1), sets(2))


def test_top1_only_adds_labels() -> None:
    rng = np.random.default_rng(0)
    cal = ScoreEvidence(rng.random((100, 3, 1)), 0.5, ("a", "b", "c"), rng.integers(0, 3, 100))
    test = ScoreEvidence(rng.random((300, 3, 1)), 0.5, ("a", "b", "c"))
    keep = RobustConformalClassifier("rcp1", "0.7", "0.01").conformalize(cal).predict_set(test)
    top = RobustConformalClassifier("rcp1", "0.7", "0.01", empty="top1").conformalize(cal).predict_set(test)
    empty = ~keep.any(axis=1)
    assert empty.any()
    assert np.all(keep <= top)
    assert np.array_equal(keep[~empty], top[~empty])
    assert np.array_equal(top[empty].argmax(axis=1), test.scores[empty, :, 0].argmin(axis=1))
    assert np.all(top[empty].sum(axis=1) == 1)
    assert np.array_equal(fill_empty(keep, test.scores[:, :, 0]), top)


def test_tuning_uses_only_its_split_and_is_recorded() -> None:
    tuning = samples(5, 120)
    clf = RobustConformalClassifier("bincp", "0.2", "0.15", KB).conformalize(samples(0, 150), tuning=tuning)
    assert clf.tuned is not None
    best = min(row.mean_size for row in clf.tuned.table)
    chosen = [
        r
        for r in clf.tuned.table
        if (r.circuit, r.scale, r.p) == (clf.tuned.reasoning.circuit, clf.tuned.reasoning.scale, clf.tuned.p)
    ]
    assert chosen[0].mean_size == best
    assert len(clf.tuned.table) == 5 * 5  # none, rules and exclusive at two weights each; five p
    # other calibration data, same choice
    again = RobustConformalClassifier("bincp", "0.2", "0.15", KB).conformalize(samples(9, 150), tuning=tuning)
    assert again.tuned is not None
    assert again.tuned.table == clf.tuned.table
    record = as_record(clf.tuned)
    assert record["points"] == 120
    direct = bincp.calibrate(samples(0, 150), alpha="0.2", radius="0.15", reasoning=clf.reasoning, p=clf.tuned.p or 0)
    assert clf.calibrated is not None
    assert direct.threshold == clf.calibrated.threshold


@pytest.mark.parametrize("method", ["vanilla", "rcp1", "colep"])
def test_tuning_matches_the_methods(method: str) -> None:
    """Mean size over the folds, recomputed with the method itself."""
    layers = candidates(KB, "binary", scales=(1.0,))
    ev = samples(3, 80)
    radius = "0" if method == "vanilla" else "0.1"
    found = tune(ev, method=method, layers=layers, alpha="0.2", radius=radius, seed=4)
    assert [row.circuit for row in found.table] == ["none", "rules", "exclusive"]
    from neurosym.certify.methods import method as module_of
    from neurosym.certify.tuning import _folds

    fold, module = _folds(80, 4), module_of(method)
    assert np.ptp(np.bincount(fold)) <= 1
    sizes = 0
    for f in np.unique(fold):
        cal, test = ev.take(np.flatnonzero(fold != f)), ev.take(np.flatnonzero(fold == f))
        made = module.calibrate(cal, alpha="0.2", radius=radius, reasoning=layers[1])
        seen = module.observe(test, made, reasoning=layers[1])
        sizes += int(module.predict(made, seen, reasoning=layers[1]).sum())
    assert found.table[1].mean_size == pytest.approx(sizes / 80)


def test_informative_rules_are_chosen() -> None:
    """Class sensors that know nothing, concept sensors that know all: no rules cannot win."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    noise = 0.1 * rng.random((200, 20, 4))
    p = np.concatenate([0.45 + noise[..., :2], 0.9 * np.eye(2)[y][:, None] + noise[..., 2:]], axis=-1)
    kb = KnowledgeBase.from_text("classes: [a, b]\nconcepts: [u, v]\nrules: [a -> u, b -> v]\n")
    ev = CachedSamples(encode(p), 0.5, ("a", "b", "u", "v"), y, num_classes=2)
    for method in ("rcp1", "bincp"):
        found = tune(ev, method=method, layers=candidates(kb, "binary"), alpha="0.1", radius="0.1")
        assert found.reasoning.circuit != "none"


def test_candidates_that_fit_the_score() -> None:
    assert {c.circuit for c in candidates(KB, "binary", "raps")} == {"exclusive"}
    assert {c.circuit for c in candidates(KB, "categorical", "saps")} == {"none", "exclusive"}
    assert len(candidates(None, "binary")) == 1
    with pytest.raises(InputError, match="fits no candidate"):
        candidates(None, "binary", "raps")


def test_bad_options_are_one_line() -> None:
    for options in (
        {"method": "magic"},
        {"circuit": "square"},
        {"circuit": "rules"},
        {"empty": "guess"},
        {"bound": "loose"},
    ):
        with pytest.raises(InputError) as error:
            RobustConformalClassifier(**options)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    clf = RobustConformalClassifier("rcp1", "0.2", "0.1", sigma="0.25")
    with pytest.raises(InputError, match=r"expects 0\.25"):
        clf.conformalize(samples(0, 20))
    with pytest.raises(InputError, match="conformalize"):
        RobustConformalClassifier().predict_set(samples(0, 5))
    with pytest.raises(InputError, match="rules cannot act on stored scores"):
        rcp1.calibrate(
            ScoreEvidence(np.zeros((3, 3, 1)), 0.5, NAMES[:3], np.zeros(3, int)),
            alpha="0.2",
            radius="0.1",
            reasoning=Reasoning(KB, "rules"),
        )
    with pytest.raises(InputError, match="expects 'categorical'"):
        rcp1.calibrate(samples(0, 5), alpha="0.2", radius="0.1", reasoning=Reasoning(KB, "rules", "categorical"))
    with pytest.raises(InputError, match="at least 4"):
        tune(samples(0, 3), method="rcp1", layers=candidates(KB, "binary"), alpha="0.2", radius="0.1")
    with pytest.raises(InputError, match="cannot use probabilities"):
        tune(
            ProbEvidence(np.full((8, 5), 0.5), NAMES, np.zeros(8, int)),
            method="colep",
            layers=candidates(KB, "binary"),
            alpha="0.2",
            radius="0.1",
        )


def test_vote_evidence_and_samples_agree() -> None:
    cal, test = samples(0, 150), samples(1, 60)
    first = RobustConformalClassifier("colep", "0.2", "0.1", KB).conformalize(cal).predict_set(test)
    second = RobustConformalClassifier("colep", "0.2", "0.1", KB).conformalize(votes_from_samples(cal))
    assert np.array_equal(first, second.predict_set(votes_from_samples(test)))


def test_knowledge_is_no_path() -> None:
    with pytest.raises(InputError, match=r"'rules\.yaml' is no KnowledgeBase"):
        RobustConformalClassifier(knowledge="rules.yaml")  # type: ignore[arg-type]
