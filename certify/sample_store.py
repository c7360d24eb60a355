"""Votes and samples on disk: append-only, atomic, resumable after a kill at any moment.

A store is bound to its settings by a manifest. Rows come in fixed shards, so that a resumed, a sharded and a
straight run write the same files.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurosym.certify.evidence import LEVELS, CachedSamples, SampleEvidence, VoteEvidence
from neurosym.errors import InputError

FORMAT = 1
SHARD_ROWS = 64


def count_votes(samples: Tensor, num_classes: int) -> np.ndarray:
    """Votes int64 ``[b, V]`` of samples ``[b, M, V]``: one-hot argmax of the classes (the first of equals),
    ``p > 1/2`` for a concept."""
    winners = samples[..., :num_classes].argmax(dim=-1)
    classes = torch.nn.functional.one_hot(winners, num_classes).sum(dim=1)
    concepts = (samples[..., num_classes:] > 0.5).sum(dim=1)
    return torch.cat([classes, concepts], dim=1).numpy().astype(np.int64)


def _write(path: Path, content: bytes) -> None:
    """Whole file or no file, also after a power cut."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _manifest(evidence: SampleEvidence, kind: str) -> dict[str, Any]:
    settings = getattr(evidence, "settings", None)
    if settings is None:
        raise InputError(f"{type(evidence).__name__} has no settings() to resume by; leave the store out")
    content = {"format": FORMAT, "kind": kind, "n": evidence.n, "settings": settings()}
    text = json.dumps(content, sort_keys=True)
    return {**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _check_manifest(path: Path, wanted: dict[str, Any]) -> None:
    """Write the manifest, or compare with the one that is there.

    Raises:
        InputError: it belongs to other settings (named), or is not a manifest.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, (json.dumps(wanted, indent=1, sort_keys=True) + "\n").encode())
        return
    try:
        found = json.loads(path.read_text())
        flat = {**found, **found["settings"]}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path}: not a sample manifest ({error}); delete it or use another place") from None
    if found == wanted:
        return
    now = {**wanted, **wanted["settings"]}
    names = [name for name in sorted(now.keys() | flat.keys()) if now.get(name) != flat.get(name)]
    names = [name for name in names if name not in ("settings", "sha256")] or ["sha256"]
    parts = [f"{name}: {_short(flat.get(name))} there, {_short(now.get(name))} now" for name in names[:4]]
    raise InputError(f"{path}: made with other settings ({'; '.join(parts)}); use another place, or delete this one")


def _short(value: Any) -> str:
    if isinstance(value, str) and value.startswith(("0x", "-0x")) and "p" in value:
        return repr(float.fromhex(value))
    text = str(value)
    return text if len(text) <= 24 else text[:21] + "..."


def _shards(n: int) -> list[tuple[int, int]]:
    return [(start, min(start + SHARD_ROWS, n)) for start in range(0, n, SHARD_ROWS)]


def _shard_path(folder: Path, start: int) -> Path:
    return folder / f"votes-{start:09d}.npy"


def _read_shard(path: Path, rows: int, evidence: SampleEvidence) -> np.ndarray:
    """One shard's votes int64 ``[rows, V]``, checked against what votes can be."""
    try:
        votes = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: damaged ({error}); delete this file and run again") from None
    good = votes.shape == (rows, len(evidence.predicates)) and votes.dtype == np.int64
    good = good and votes.min() >= 0 and votes.max() <= evidence.trials
    if not (good and (votes[:, : evidence.num_classes].sum(axis=1) == evidence.trials).all()):
        raise InputError(f"{path}: not votes of {evidence.trials} draws; delete this file and run again")
    return np.asarray(votes, dtype=np.int64)


def _stream(evidence: SampleEvidence, shards: list[tuple[int, int]]) -> Iterator[tuple[int, np.ndarray]]:
    """Start and votes of each shard; samples are dropped as soon as they are counted."""
    if not shards:
        return
    waiting, parts, held = iter(shards), [], 0
    start, stop = next(waiting)
    for rows, samples in evidence.chunks(np.concatenate([np.arange(*ends) for ends in shards])):
        votes = count_votes(samples, evidence.num_classes)
        used = 0
        while used < len(rows):
            take = min(len(rows) - used, stop - start - held)
            parts.append(votes[used : used + take])
            used, held = used + take, held + take
            if held == stop - start:
                yield start, np.concatenate(parts)
                parts, held = [], 0
                start, stop = next(waiting, (0, 0))


def sample_votes(
    evidence: SampleEvidence, store: str | Path | None = None, *, rank: int = 0, world: int = 1
) -> VoteEvidence:
    """Integer votes of every row; samples are never kept.

    Args:
        evidence: samples to count.
        store: folder for finished shards of rows. A run that was killed continues there, with the same
            integers as one that was not.
        rank, world: with a store on a shared disk, compute only this rank's shards. Where
            ``torch.distributed`` is initialised the ranks wait for one another.

    Raises:
        InputError: the store was made with other settings, is damaged, or lacks other ranks' shards.
    """
    if not 0 <= rank < world:
        raise InputError(f"rank: {rank} of {world} does not exist; use 0 to world - 1")
    shards = _shards(evidence.n)
    if store is None:
        if world > 1:
            raise InputError("several ranks need a store on a disk that all of them see")
        return _vote_evidence(evidence, [votes for _, votes in _stream(evidence, shards)])
    folder = Path(store)
    _check_manifest(folder / "manifest.json", _manifest(evidence, "votes"))
    mine = [ends for ends in shards[rank::world] if not _shard_path(folder, ends[0]).exists()]
    for start, votes in _stream(evidence, mine):
        _write(_shard_path(folder, start), _npy(votes))
    if world > 1 and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
    missing = [start for start, _ in shards if not _shard_path(folder, start).exists()]
    if missing:
        raise InputError(f"{folder}: {len(missing)} of {len(shards)} shards are missing; run the other ranks too")
    return _vote_evidence(evidence, [_read_shard(_shard_path(folder, a), b - a, evidence) for a, b in shards])


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _vote_evidence(evidence: SampleEvidence, parts: list[np.ndarray]) -> VoteEvidence:
    return VoteEvidence(
        votes=np.concatenate(parts),
        trials=evidence.trials,
        sigma=evidence.sigma,
        labels=evidence.labels,
        predicates=evidence.predicates,
        class_kind=evidence.class_kind,
        num_classes=evidence.num_classes,
    )


def cache_samples(evidence: SampleEvidence, path: str | Path) -> CachedSamples:
    """Write all samples to a uint16 ``.npy`` file ``[n, M, V]`` and hand them back as a read-only memory map.

    ``path`` appears only when it is complete; until then rows go to ``path.partial``, finished ranges to
    ``path.journal`` and settings to ``path.manifest``, and a killed run continues. One writer at a time.

    Raises:
        InputError: ``path`` exists and was made with other settings, or is not ours.
    """
    path = Path(path)
    partial, journal, manifest = (path.with_name(path.name + e) for e in (".partial", ".journal", ".manifest"))
    if path.exists() and not manifest.exists():
        raise InputError(f"{path}: exists and has no {manifest.name} beside it; choose another path")
    _check_manifest(manifest, _manifest(evidence, "samples"))
    shape = (evidence.n, evidence.trials, len(evidence.predicates))
    if not path.exists():
        done = _journalled(partial, journal, shape)
        missing = np.flatnonzero(~done)
        grid = np.lib.format.open_memmap(partial, mode="r+")
        with open(journal, "a") as log:
            for rows, samples in evidence.chunks(missing) if missing.size else ():
                # samples sit on (k + 1/2) / 65536: truncation gives k back exactly
                grid[rows] = (samples * LEVELS).to(torch.int32).numpy().astype(np.uint16)
                grid.flush()
                log.write(" ".join(map(str, rows)) + "\n")
                log.flush()
                os.fsync(log.fileno())
        del grid
        os.replace(partial, path)
    journal.unlink(missing_ok=True)
    return _cached(evidence, path, shape)


def _journalled(partial: Path, journal: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """bool ``[n]``: rows that are safely in the partial file, which is made afresh when it is unusable."""
    done = np.zeros(shape[0], dtype=bool)
    try:
        usable = np.lib.format.open_memmap(partial, mode="r").shape == shape
    except (OSError, ValueError):
        usable = False
    if not usable:
        journal.unlink(missing_ok=True)
        fresh = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint16, shape=shape)
        fresh.flush()
        return done
    text = journal.read_text() if journal.exists() else ""
    complete = text[: text.rfind("\n") + 1]  # a kill can leave half a line, whose rows are done again
    if complete != text:
        _write(journal, complete.encode())
    for line in complete.splitlines():
        done[np.array(line.split(), dtype=np.int64)] = True
    return done


def _cached(evidence: SampleEvidence, path: Path, shape: tuple[int, int, int]) -> CachedSamples:
    try:
        grid = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: damaged ({error}); delete it and run again") from None
    if grid.shape != shape or grid.dtype != np.uint16:
        raise InputError(f"{path}: {grid.dtype} {grid.shape} and not uint16 {shape}; delete it and run again")
    return CachedSamples(
        codes=grid,
        labels=evidence.labels,
        predicates=evidence.predicates,
        num_classes=evidence.num_classes,
        sigma=evidence.sigma,
        class_kind=evidence.class_kind,
    )
