"""Stores on disk: killed and resumed, sharded and straight runs end with the same integers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import killed_run
import numpy as np
import pytest
import torch

from neurosym.certify.evidence import CachedSamples, votes_from_samples
from neurosym.certify.sample_store import SHARD_ROWS, count_votes
from neurosym.certify.sampling import ModelEvidence, cache_samples, sample_votes
from neurosym.errors import InputError


@pytest.fixture
def pids(tmp_path: Path) -> Path:
    folder = tmp_path / "pids"
    folder.mkdir()
    return folder


def _kill_when(ready: Callable[[], bool], *arguments: object) -> subprocess.Popen[bytes]:
    """Start the run and kill it with SIGKILL as soon as something is on disk."""
    command = [sys.executable, killed_run.__file__, *map(str, arguments)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    try:
        while not ready():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return process


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_votes_after_a_kill(tmp_path: Path, pids: Path) -> None:
    store = tmp_path / "store"
    _kill_when(lambda: len(list(store.glob("votes-*.npy"))) >= 1, "votes", store, 2, pids, 0.004)
    finished = {path.name: path.stat().st_mtime_ns for path in store.glob("votes-*.npy")}
    assert 1 <= len(finished) < -(-killed_run.ROWS // SHARD_ROWS)
    deadline = time.monotonic() + 20  # workers whose parent was killed end by themselves
    while any(_alive(int(path.name)) for path in pids.iterdir() if int(path.name) != os.getpid()):
        assert time.monotonic() < deadline, "a worker outlived its killed parent"
        time.sleep(0.05)
    resumed = sample_votes(killed_run.evidence(pids), store)
    straight = sample_votes(killed_run.evidence(pids))
    assert resumed.votes.dtype == np.int64
    assert np.array_equal(resumed.votes, straight.votes)
    assert resumed.labels is not None
    assert resumed.labels.tolist() == [row % 3 for row in range(killed_run.ROWS)]
    for name, written in finished.items():  # what was finished was not done again
        assert (store / name).stat().st_mtime_ns == written


def test_samples_after_a_kill(tmp_path: Path, pids: Path) -> None:
    path = tmp_path / "samples.npy"
    journal = tmp_path / "samples.npy.journal"
    _kill_when(lambda: journal.exists() and journal.stat().st_size > 0, "samples", path, 1, pids, 0.004)
    assert not path.exists()
    with open(journal, "a") as file:
        file.write("150 15")  # a line cut short by the kill does not count
    cached = cache_samples(killed_run.evidence(pids), path)
    assert isinstance(cached, CachedSamples)
    assert isinstance(cached.codes, np.memmap)
    straight = np.concatenate([grid for _, grid in killed_run.evidence(pids).grids()])
    assert np.array_equal(cached.codes, straight)
    assert np.array_equal(votes_from_samples(cached).votes, sample_votes(killed_run.evidence(pids)).votes)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pids", "samples.npy", "samples.npy.manifest"]
    written = path.stat().st_mtime_ns
    cache_samples(killed_run.evidence(pids), path)
    assert path.stat().st_mtime_ns == written


def test_counted_like_the_reference(pids: Path) -> None:
    evidence = killed_run.evidence(pids)
    assert np.array_equal(sample_votes(evidence).votes, votes_from_samples(evidence).votes)
    tied = torch.tensor([[[0.25, 0.5, 0.5, 0.5], [0.5, 0.5, 0.1, 0.75]]])
    assert count_votes(tied, 3).tolist() == [[1, 1, 0, 1]]  # first of equals; a half is no vote


def test_ranks_share_a_store(tmp_path: Path, pids: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(InputError, match="shards are missing"):
        sample_votes(killed_run.evidence(pids), store, rank=1, world=2)
    both = sample_votes(killed_run.evidence(pids), store, rank=0, world=2)
    assert np.array_equal(both.votes, sample_votes(killed_run.evidence(pids)).votes)
    with pytest.raises(InputError, match="store"):
        sample_votes(killed_run.evidence(pids), rank=0, world=2)
    with pytest.raises(InputError, match="rank"):
        sample_votes(killed_run.evidence(pids), store, rank=2, world=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0.25}, r"sigma: 0.5 there, 0.25 now"),
        ({"seed": 5}, r"seed: 4 there, 5 now"),
        ({"trials": 21}, "trials: 20 there, 21 now"),
        ({"stream": 1}, "stream"),
        ({"batch": 10}, "batch"),
        ({"fold": False}, "folded"),
        ({"class_kind": "binary"}, "class_kind"),
        ({"indices": range(1, 200)}, "images"),
        ({"labels": [0] * 200}, "labels"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, pids: Path, change: dict[str, object], message: str) -> None:
    store, path = tmp_path / "store", tmp_path / "samples.npy"
    sample_votes(killed_run.evidence(pids), store)
    cache_samples(killed_run.evidence(pids), path)
    for run, place in ((sample_votes, store), (cache_samples, path)):
        with pytest.raises(InputError, match=message) as caught:
            run(killed_run.evidence(pids, **change), place)  # type: ignore[operator]
        assert "\n" not in str(caught.value)


def test_other_weights_are_refused(tmp_path: Path, pids: Path) -> None:
    sample_votes(killed_run.evidence(pids), tmp_path)
    other = killed_run.evidence(pids)
    with torch.no_grad():
        next(other.model.parameters()).add_(1e-3)
    with pytest.raises(InputError, match="weights"):
        sample_votes(other, tmp_path)


def test_damage_is_noticed(tmp_path: Path, pids: Path) -> None:
    store = tmp_path / "store"
    sample_votes(killed_run.evidence(pids), store)
    shard = store / "votes-000000064.npy"
    good = shard.read_bytes()
    shard.write_bytes(good[:100])
    with pytest.raises(InputError, match="votes-000000064"):
        sample_votes(killed_run.evidence(pids), store)
    np.save(shard, np.full((64, 4), 21))
    with pytest.raises(InputError, match="not votes of 20 draws"):
        sample_votes(killed_run.evidence(pids), store)
    shard.unlink()
    sample_votes(killed_run.evidence(pids), store)
    assert shard.read_bytes() == good
    (store / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="not a sample manifest"):
        sample_votes(killed_run.evidence(pids), store)


def test_foreign_files_are_left_alone(tmp_path: Path, pids: Path) -> None:
    path = tmp_path / "samples.npy"
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match="choose another path"):
        cache_samples(killed_run.evidence(pids), path)
    assert path.read_bytes() == b"mine"


def test_evidence_without_settings_has_no_store(tmp_path: Path, pids: Path) -> None:
    cached = cache_samples(killed_run.evidence(pids), tmp_path / "samples.npy")
    with pytest.raises(InputError, match="leave the store out"):
        sample_votes(cached, tmp_path / "store")


def test_manifest_is_readable(tmp_path: Path, pids: Path) -> None:
    evidence = killed_run.evidence(pids)
    sample_votes(evidence, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["settings"] == evidence.settings()
    assert len(manifest["sha256"]) == 64
    assert isinstance(evidence, ModelEvidence)
