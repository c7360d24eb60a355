"""Evidence records and files: round trips, streaming, and one-line errors that name the place."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurosym.certify.evidence import (
    BoxEvidence,
    CachedSamples,
    ProbEvidence,
    SampleEvidence,
    ScoreEvidence,
    VoteEvidence,
    encode,
    load_evidence,
    save_evidence,
    votes_from_samples,
)
from neurosym.errors import InputError

NAMES = ("cat", "dog", "fur")


def example(kind: str) -> Any:
    rng = np.random.default_rng(0)
    p, y = rng.random((6, 3)), rng.integers(0, 2, 6)
    if kind == "probs":
        return ProbEvidence(p, NAMES, y, "categorical", 2)
    if kind == "votes":
        return VoteEvidence(rng.integers(0, 11, (6, 3)), 10, 0.25, NAMES, y, num_classes=2)
    if kind == "lower":
        return BoxEvidence(p * 0.9, p, 0.125, NAMES, y, num_classes=2)
    return ScoreEvidence(rng.random((6, 3, 4)), 0.5, NAMES, y)


@pytest.mark.parametrize("kind", ["probs", "votes", "lower", "scores"])
def test_round_trip(kind: str, tmp_path: Path) -> None:
    before = example(kind)
    save_evidence(tmp_path / "e.npz", before)
    after = load_evidence(tmp_path / "e.npz")
    assert type(after) is type(before)
    for name in vars(before):
        assert np.array_equal(getattr(after, name), getattr(before, name)), name
    assert [f.name for f in tmp_path.iterdir()] == ["e.npz"]  # nothing temporary is left
    some = after.take(np.array([4, 1]))
    assert some.n == 2
    assert np.array_equal(some.labels, before.labels[[4, 1]])


def fields(**change: Any) -> dict[str, Any]:
    base = {"predicates": np.array(NAMES), "probs": np.full((4, 3), 0.5), "labels": np.array([0, 1, 2, 0])}
    base.update(change)
    return {name: value for name, value in base.items() if value is not None}


BAD = [
    (fields(probs=np.array([[0.5, 0.5, 0.5], [0.1, np.nan, 0.2]]), labels=None), r"field 'probs' row 1.*number"),
    (fields(probs=np.array([[0.5, 0.5, 0.5], [0.1, 1.2, 0.2]]), labels=None), r"'probs' row 1: 1.2 is outside"),
    (fields(labels=np.array([0, 1, 3, 0])), r"field 'labels' row 2: 3 is out of range; classes are 0..2"),
    (fields(labels=np.array([0, -1, 1, 0])), r"field 'labels' row 1: -1"),
    (fields(labels=np.array([0, 1])), r"field 'labels': 2 labels for 4 rows"),
    (fields(labels=np.array([0.5, 1, 1, 1])), r"field 'labels': dtype float64 is not integers"),
    (fields(probs=np.full(3, 0.5)), r"field 'probs': shape \(3,\); the shape must be \[n,V\]"),
    (fields(predicates=np.array(["a", "b"])), r"field 'predicates': 2 names for 3 columns"),
    (fields(predicates=np.array(["a", "b", "a"])), r"field 'predicates': 'a' occurs twice"),
    (fields(predicates=None), r"field 'predicates' is missing"),
    (fields(predicates=np.array([1, 2, 3])), r"field 'predicates': not a list of strings"),
    (fields(probs=None), r"found none; give exactly one of"),
    (fields(votes=np.ones((4, 3), dtype=int)), r"found 'probs' and 'votes'; give exactly one"),
    (fields(probs=None, votes=np.ones((4, 3), dtype=int), sigma=0.5), r"field 'trials' is missing"),
    (fields(probs=None, votes=np.full((4, 3), 9), trials=8, sigma=0.5), r"field 'votes' row 0: 9 is not in 0..8"),
    (fields(probs=None, votes=np.ones((4, 3)), trials=8, sigma=0.5), r"field 'votes': dtype float64"),
    (fields(probs=None, votes=np.ones((4, 3), dtype=int), trials=8, sigma=-1.0), r"field 'sigma': -1.0"),
    (fields(probs=None, votes=np.ones((4, 3), dtype=int), trials=8.5, sigma=1.0), r"field 'trials': 8.5"),
    (fields(probs=None, lower=np.full((4, 3), 0.5), radius=0.1), r"field 'upper' is missing"),
    (fields(probs=None, upper=np.full((4, 3), 0.5), radius=0.1), r"field 'lower' is missing"),
    (
        fields(probs=None, lower=np.full((4, 3), 0.5), upper=np.full((4, 3), 0.4), radius=0.1),
        r"field 'lower' row 0: 0.5 is above 'upper'",
    ),
    (fields(probs=None, scores=np.full((4, 3, 2), np.nan), sigma=0.1), r"field 'scores' row 0"),
    (fields(class_kind=np.array("soft")), r"field 'class_kind': 'soft'"),
    (fields(num_classes=np.array(7)), r"field 'num_classes': 7 is not between 1 and 3"),
    (fields(label=np.array([1])), r"field 'label' is unknown"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_bad_fields(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **content)
    with pytest.raises(InputError, match=message) as error:
        load_evidence(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "pickled.npz"
    np.savez(path, **fields(predicates=np.array(NAMES, dtype=object)))
    with pytest.raises(InputError, match="field 'predicates' holds pickled objects"):
        load_evidence(path)
    (tmp_path / "raw.npz").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InputError, match=r"raw.npz: not a readable .npz") as caught:
        load_evidence(tmp_path / "raw.npz")
    assert "allow_pickle" not in str(caught.value)  # numpy's advice
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"cut.npz: not a readable .npz"):
        load_evidence(tmp_path / "cut.npz")
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(InputError, match="not an archive"):
        load_evidence(tmp_path / "one.npy")
    with pytest.raises(InputError, match="no such file"):
        load_evidence(tmp_path / "none.npz")


def test_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "e.npz"
    save_evidence(path, example("probs"))
    old = path.read_bytes()
    with pytest.raises(InputError):
        save_evidence(path, "nonsense")  # type: ignore[arg-type]
    assert path.read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 1


def test_cached_samples_stream_on_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurosym.certify.evidence.CACHE_BLOCK", 60)  # two rows a block
    p = np.random.default_rng(0).random((7, 10, 3))
    ev = CachedSamples(encode(p), 0.5, NAMES, num_classes=2)
    assert isinstance(ev, SampleEvidence)
    got, seen = np.zeros(p.shape), []
    for rows, samples in ev.chunks(np.array([6, 0, 3])):
        assert samples.shape == (rows.size, 10, 3)
        got[rows] = samples.numpy()
        seen += rows.tolist()
    assert seen == [6, 0, 3]
    assert np.array_equal(got[6], (np.floor(65536 * p[6]) + 0.5) / 65536)
    assert np.array_equal(encode(np.array([0.0, 1.0])), [0, 65535])


def test_votes_from_samples_against_loops() -> None:
    rng = np.random.default_rng(1)
    p = np.round(rng.random((5, 20, 4)), 1)  # ties among classes, concepts at exactly one half
    ev = CachedSamples(encode(p), 0.5, ("a", "b", "c", "z"), num_classes=3)
    grid = (encode(p).astype(float) + 0.5) / 65536
    want = np.zeros((5, 4), dtype=int)
    for i in range(5):
        for m in range(20):
            want[i, int(np.argmax(grid[i, m, :3]))] += 1
            want[i, 3] += grid[i, m, 3] > 0.5
    votes = votes_from_samples(ev)
    assert np.array_equal(votes.votes, want)
    assert votes.one_hot
    assert (votes.trials, votes.sigma, votes.num_classes) == (20, 0.5, 3)


def test_package_import_is_light() -> None:
    code = "import sys, neurosym.certify; print([m for m in ('torch', 'scipy', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
