"""The class: coverage in every mode, p-values, batches, files, and wrong use."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conformal_cases import draw_labels, softmax_rows

import neurosym.certify as certify
from neurosym.certify import scores as reference
from neurosym.certify.conformal import ConformalClassifier, Score, classifier, fit_temperature
from neurosym.certify.quantile import conformal_quantile
from neurosym.errors import InputError


def _data(n: int, seed: int, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    p = softmax_rows(n, classes, seed)
    return p, draw_labels(p, seed + 1)


@pytest.mark.parametrize("kind", ["lac", "aps", "raps", "saps"])
def test_same_sets_as_the_certified_pipeline(kind: str) -> None:
    (p, y), (test, _) = _data(200, 1), _data(80, 3)
    clf = ConformalClassifier(kind, "0.1", seed=5).conformalize(p, y)
    own = reference.score(p, kind, reference.uniforms(200, 5, 0))[np.arange(200), y]
    full = reference.score(test, kind, reference.uniforms(80, 5, 1))
    assert np.array_equal(clf.predict_set(test), full <= conformal_quantile(own, "0.1"))


@pytest.mark.parametrize("kind", ["lac", "aps", "raps", "saps"])
def test_coverage_is_at_least_the_level_and_not_more_than_a_rank_above(kind: str) -> None:
    n, rounds, hits = 39, 400, []
    for seed in range(rounds):
        p, y = _data(n + 20, seed)
        clf = ConformalClassifier(kind, "0.2", seed=seed).conformalize(p[:n], y[:n])
        hits.append(clf.predict_set(p[n:])[np.arange(20), y[n:]].mean())
    error = np.std(hits) / np.sqrt(rounds)
    assert 0.8 - 4 * error <= np.mean(hits) <= 0.8 + 1 / (n + 1) + 4 * error


def test_coverage_given_class_and_group() -> None:
    """A model that is bad for one class (and one group): marginal sets miss it, conditional sets do not."""
    rounds, modes = 150, ("marginal", "class", "group")
    missed = {mode: [] for mode in modes}
    for seed in range(rounds):
        generator = np.random.default_rng(seed)
        y = generator.choice(2, 320, p=[0.8, 0.2])
        z = 2.0 * np.eye(2)[y] + generator.normal(size=(320, 2)) * np.where(y == 1, 3.0, 0.5)[:, None]
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        for mode in modes:
            groups = y if mode == "group" else None  # any function of (x, y) may be a group
            clf = ConformalClassifier("lac", "0.1", mode).conformalize(
                p[:200], y[:200], None if groups is None else y[:200]
            )
            sets = clf.predict_set(p[200:], None if groups is None else y[200:])
            missed[mode].append(1 - sets[np.arange(120), y[200:]][y[200:] == 1].mean())
    for mode in ("class", "group"):
        assert np.mean(missed[mode]) <= 0.1 + 4 * np.std(missed[mode]) / np.sqrt(rounds)
    assert np.mean(missed["marginal"]) > 0.2


def test_p_values_agree_with_sets_and_batches_with_the_whole() -> None:
    (p, y), (test, _) = _data(150, 1), _data(60, 3)
    groups, own = np.arange(150) % 3, np.arange(60) % 4  # group 3 has no calibration points
    for mode in ("marginal", "class", "group"):
        g, h = (groups, own) if mode == "group" else (None, None)
        clf = ConformalClassifier("raps", "0.15", mode, seed=2).conformalize(p, y, g)
        sets = clf.predict_set(test, h)
        assert np.array_equal(clf.predict_p(test, h) > 0.15, sets)
        parts = [
            clf.predict_set(test[a:b], None if h is None else h[a:b], start=a) for a, b in ((0, 7), (7, 30), (30, 60))
        ]
        assert np.array_equal(np.concatenate(parts), sets)
        smooth = clf.predict_p(test, h, smoothed=True)
        assert (smooth <= clf.predict_p(test, h)).all()
        if mode == "group":
            assert sets[own == 3].all()


def test_weights_by_test_row() -> None:
    (p, y), (test, _) = _data(120, 1), _data(30, 3)
    w, v = np.random.default_rng(0).random(120), np.append(np.random.default_rng(1).random(29), 1e6)
    clf = ConformalClassifier("lac", "0.1").conformalize(p, y, weights=w)
    sets = clf.predict_set(test, weights=v)
    own = 1 - p[np.arange(120), y]
    for i in range(29):
        keep = [s for s in np.sort(own) if w[own <= s].sum() >= 0.9 * (w.sum() + v[i])]
        assert np.array_equal(sets[i], 1 - test[i] <= (keep[0] if keep else np.inf))
    assert sets[29].all()
    equal = (
        ConformalClassifier("lac", "0.1")
        .conformalize(p, y, weights=np.ones(120))
        .predict_set(test, weights=np.ones(30))
    )
    assert np.array_equal(equal, ConformalClassifier("lac", "0.1").conformalize(p, y).predict_set(test))


def test_temperature_changes_sets_not_coverage() -> None:
    p, y = _data(3000, 1)
    hot = p**3 / (p**3).sum(axis=1, keepdims=True)
    heat = fit_temperature(hot[:1000], y[:1000])
    clf = ConformalClassifier("aps", "0.1", temperature=heat).conformalize(hot[1000:2000], y[1000:2000])
    found = clf.evaluate(hot[2000:], y[2000:])
    assert abs(found.coverage.rate - 0.9) < 4 * np.sqrt(2 * 0.9 * 0.1 / 1000)  # of calibration and of evaluation
    cold = ConformalClassifier("aps", "0.1").conformalize(p[1000:2000], y[1000:2000]).predict_set(p[2000:])
    assert found.mean_size == pytest.approx(cold.sum(axis=1).mean(), rel=0.05)


def test_torch_gives_the_same_sets() -> None:
    (p, y), (test, _) = _data(100, 1), _data(40, 3)
    ours = ConformalClassifier("aps").conformalize(torch.from_numpy(p), torch.from_numpy(y))
    numpy = ConformalClassifier("aps").conformalize(p, y)
    assert torch.equal(ours.predict_set(torch.from_numpy(test)), torch.from_numpy(numpy.predict_set(test)))
    assert torch.equal(ours.predict_p(torch.from_numpy(test)), torch.from_numpy(numpy.predict_p(test)))


def test_chance_only_where_asked() -> None:
    (p, y), (test, _) = _data(100, 1), _data(40, 3)
    fixed = [ConformalClassifier("aps", seed=s, randomised=False).conformalize(p, y).predict_set(test) for s in (0, 1)]
    drawn = [ConformalClassifier("aps", seed=s).conformalize(p, y).predict_set(test) for s in (0, 1)]
    assert np.array_equal(*fixed)
    assert not np.array_equal(*drawn)
    assert ConformalClassifier("aps", "0.5", allow_empty=False).conformalize(p, y).predict_set(test).any(axis=1).all()


@pytest.mark.parametrize("mode", ["marginal", "class", "group", "weights"])
def test_files_keep_every_bit(mode: str, tmp_path: Path) -> None:
    (p, y), (test, _) = _data(90, 1), _data(40, 3)
    rule = Score("raps", penalty=0.1, free=2)
    groups = {"groups": np.arange(90) % 2} if mode == "group" else {}
    weights = {"weights": np.linspace(0.1, 1, 90)} if mode == "weights" else {}
    clf = ConformalClassifier(rule, "0.07", "marginal" if weights else mode, 9, 1.7, allow_empty=False)
    clf.conformalize(p, y, **groups, **weights).save(tmp_path / "clf.json")
    back = ConformalClassifier.load(tmp_path / "clf.json")
    options = {"groups": np.arange(40) % 2} if groups else {"weights": np.ones(40)} if weights else {}
    assert np.array_equal(back.predict_set(test, **options), clf.predict_set(test, **options))
    assert (back.score, back.alpha, back.mode, back.seed) == (rule, "0.07", clf.mode, 9)
    document = json.loads((tmp_path / "clf.json").read_text())
    for damage in ({"format": "x"}, {"alpha": "2"}, {"calibration": {}}, {"mode": "none"}):
        (tmp_path / "bad.json").write_text(json.dumps(document | damage))
        with pytest.raises(InputError) as caught:
            ConformalClassifier.load(tmp_path / "bad.json")
        assert str(caught.value).startswith(str(tmp_path / "bad.json"))
        assert "\n" not in str(caught.value)
    document["calibration"]["thresholds"] = ["nan"] * 7
    (tmp_path / "bad.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="thresholds"):
        ConformalClassifier.load(tmp_path / "bad.json")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        ConformalClassifier.load(tmp_path / "none.json")
    (tmp_path / "x.json").write_text("[")
    with pytest.raises(InputError, match="not JSON"):
        ConformalClassifier.load(tmp_path / "x.json")


def test_too_few_points_are_named() -> None:
    p, y = _data(8, 1)
    clf = ConformalClassifier("lac", "0.1").conformalize(p, y)
    assert clf.predict_set(p).all()
    assert clf.notes == ("8 calibration points: every set is full; at least 9 are needed",)
    assert "classes have fewer than 9" in ConformalClassifier("lac", "0.1", "class").conformalize(p, y).notes[0]
    p, y = _data(900, 1)
    assert ConformalClassifier("lac", "0.1").conformalize(p, y).notes == ()


def test_evaluate_reports_groups() -> None:
    p, y = _data(600, 1)
    clf = ConformalClassifier("aps").conformalize(p[:300], y[:300])
    found = clf.evaluate(p[300:], y[300:], groups=np.arange(300) % 2)
    assert [part.total for part in found.groups] == [150, 150]
    assert found.coverage.count == clf.predict_set(p[300:])[np.arange(300), y[300:]].sum()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda p, y: ConformalClassifier("aps", "1.2"), "strictly between"),
        (lambda p, y: ConformalClassifier("aps", mode="cluster"), "mode"),
        (lambda p, y: ConformalClassifier("aps", seed=-1), "seed"),
        (lambda p, y: ConformalClassifier("aps", temperature=0.0), "temperature"),
        (lambda p, y: ConformalClassifier("aps").predict_set(p), "call conformalize first"),
        (lambda p, y: ConformalClassifier("aps", mode="group").conformalize(p, y), "'groups' is missing"),
        (lambda p, y: ConformalClassifier("aps").conformalize(p, y, y), "belongs to mode 'group'"),
        (lambda p, y: ConformalClassifier("aps", mode="class").conformalize(p, y, weights=y + 1.0), "mode is 'class'"),
        (lambda p, y: ConformalClassifier("aps").conformalize(p, y[:-1]), "labels"),
        (lambda p, y: ConformalClassifier("aps").conformalize(p, y).predict_set(p[:, 1:]), "5 classes, but"),
        (lambda p, y: ConformalClassifier("aps").conformalize(p, y).predict_set(p, weights=y + 1.0), "belongs to"),
        (lambda p, y: ConformalClassifier("aps").conformalize(p, y, weights=y + 1.0).predict_p(p), "weights"),
        (lambda p, y: ConformalClassifier("aps").conformalize(p, y).predict_set(p, start=-1), "start"),
    ],
)
def test_wrong_use_is_refused_in_one_line(call: object, text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        call(*_data(20, 1))  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_docstring_and_public_names() -> None:
    assert doctest.testmod(classifier).failed == 0
    assert certify.ConformalClassifier is ConformalClassifier
