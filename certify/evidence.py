"""Evidence: what a network says about the predicates of each input, with or without noise, and its ``.npz`` form.

A record has ``n`` rows and ``V`` predicates (classes first, ``num_classes`` of them; all of them unless told
otherwise). Arrays are checked once, here. ``SampleEvidence`` is a protocol: anything that streams network outputs
under noise in blocks of rows can be calibrated without ever holding all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np

from neurosym.certify.checks import check_labels, numbers, probabilities, refuse_rows
from neurosym.errors import InputError

if TYPE_CHECKING:
    import torch

ClassKind = Literal["binary", "categorical"]
NORMS = ("l2", "linf")
LEVELS = 65536  # probabilities under noise live on the grid (k + 1/2) / 65536, exact in float32
CACHE_BLOCK = 1 << 22  # numbers in one block of cached samples


def check_norm(norm: str) -> None:
    """Refuse a distance that no bound is known for."""
    if norm not in NORMS:
        raise InputError(f"field 'norm': {norm!r}; write {' or '.join(NORMS)}")


class _Record:
    """What all evidence shares: labels, predicate names, class kind, number of classes."""

    predicates: tuple[str, ...]
    labels: np.ndarray | None
    class_kind: ClassKind
    num_classes: int

    def _finish(self, n: int, width: int) -> None:
        names = tuple(str(p) for p in self.predicates)
        if len(names) != width:
            raise InputError(f"field 'predicates': {len(names)} names for {width} columns; give one name a column")
        if len(set(names)) != len(names):
            twice = next(p for p in names if names.count(p) > 1)
            raise InputError(f"field 'predicates': {twice!r} occurs twice; names must differ")
        if self.class_kind not in ("binary", "categorical"):
            raise InputError(f"field 'class_kind': {self.class_kind!r}; write 'binary' or 'categorical'")
        classes = int(self.num_classes) or width
        if not 1 <= classes <= width:
            raise InputError(f"field 'num_classes': {classes} is not between 1 and {width}")
        object.__setattr__(self, "predicates", names)
        object.__setattr__(self, "num_classes", classes)
        if self.labels is not None:
            object.__setattr__(self, "labels", check_labels(self.labels, n, classes))

    def _noise(self, sigma: float, positive: bool = True) -> None:
        if not np.isfinite(sigma) or sigma < 0 or (positive and sigma == 0):
            raise InputError(f"field 'sigma': {sigma} is not a positive number; give the noise's standard deviation")


@dataclass(frozen=True, eq=False)
class ProbEvidence(_Record):
    """Predicate probabilities without noise, ``probs`` float64 ``[n, V]`` in [0, 1]."""

    probs: np.ndarray
    predicates: tuple[str, ...]
    labels: np.ndarray | None = None
    class_kind: ClassKind = "binary"
    num_classes: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "probs", probabilities("probs", self.probs))
        self._finish(*self.probs.shape)

    @property
    def n(self) -> int:
        return int(self.probs.shape[0])

    def take(self, rows: np.ndarray) -> ProbEvidence:
        return replace(self, probs=self.probs[rows], labels=_taken(self.labels, rows))


@dataclass(frozen=True, eq=False)
class VoteEvidence(_Record):
    """Hard votes under Gaussian noise: ``votes`` int64 ``[n, V]`` out of ``trials`` draws of deviation ``sigma``."""

    votes: np.ndarray
    trials: int
    sigma: float
    predicates: tuple[str, ...]
    labels: np.ndarray | None = None
    class_kind: ClassKind = "binary"
    num_classes: int = 0

    def __post_init__(self) -> None:
        votes = numbers("votes", self.votes, "[n,V]", integer=True)
        if self.trials < 1:
            raise InputError(f"field 'trials': {self.trials}; at least 1 noise draw is needed")
        outside = (votes < 0) | (votes > self.trials)
        refuse_rows("votes", votes, outside, f"is not in 0..{self.trials}", "votes count draws out of 'trials'")
        object.__setattr__(self, "votes", votes)
        self._noise(self.sigma)
        self._finish(*votes.shape)

    @property
    def n(self) -> int:
        return int(self.votes.shape[0])

    @property
    def one_hot(self) -> bool:
        """True if each draw voted for exactly one class, as far as the counts can tell."""
        return bool((self.votes[:, : self.num_classes].sum(axis=1) == self.trials).all())

    def take(self, rows: np.ndarray) -> VoteEvidence:
        return replace(self, votes=self.votes[rows], labels=_taken(self.labels, rows))


@dataclass(frozen=True, eq=False)
class BoxEvidence(_Record):
    """Deterministic bounds of the probabilities over an attack ball: ``lower``, ``upper`` float64 ``[n, V]``.

    ``probs`` float64 ``[n, V]``, if given, are the answers at the points themselves, inside the bounds. ``norm`` is the
    distance of the ball, ``l2`` or ``linf``.
    """

    lower: np.ndarray
    upper: np.ndarray
    radius: float
    predicates: tuple[str, ...]
    labels: np.ndarray | None = None
    class_kind: ClassKind = "binary"
    num_classes: int = 0
    probs: np.ndarray | None = None
    norm: str = "l2"

    def __post_init__(self) -> None:
        lower, upper = probabilities("lower", self.lower), probabilities("upper", self.upper)
        if lower.shape != upper.shape:
            raise InputError(f"field 'upper': shape {upper.shape} differs from that of 'lower', {lower.shape}")
        refuse_rows("lower", lower, lower > upper, "is above 'upper'", "swap the bounds")
        if not np.isfinite(self.radius) or self.radius < 0:
            raise InputError(f"field 'radius': {self.radius} is not a number >= 0")
        check_norm(self.norm)
        if self.probs is not None:
            probs = probabilities("probs", self.probs)
            if probs.shape != lower.shape:
                raise InputError(f"field 'probs': shape {probs.shape} differs from that of 'lower', {lower.shape}")
            outside = (probs < lower) | (probs > upper)
            refuse_rows("probs", probs, outside, "is outside its bounds", "bound the network that gives the answers")
            object.__setattr__(self, "probs", probs)
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)
        self._finish(*lower.shape)

    @property
    def n(self) -> int:
        return int(self.lower.shape[0])

    def take(self, rows: np.ndarray) -> BoxEvidence:
        probs = None if self.probs is None else self.probs[rows]
        labels = _taken(self.labels, rows)
        return replace(self, lower=self.lower[rows], upper=self.upper[rows], labels=labels, probs=probs)


@dataclass(frozen=True, eq=False)
class ScoreEvidence(_Record):
    """Nonconformity scores (small = plausible) of ``M`` noise draws: ``scores`` float64 ``[n, K, M]``."""

    scores: np.ndarray
    sigma: float
    predicates: tuple[str, ...]
    labels: np.ndarray | None = None
    class_kind: ClassKind = "binary"
    num_classes: int = 0

    def __post_init__(self) -> None:
        scores = numbers("scores", self.scores, "[n,K,M]")
        refuse_rows("scores", scores, np.isnan(scores), "is not a number", "remove the row or mend the model")
        object.__setattr__(self, "scores", scores)
        self._noise(self.sigma, positive=False)
        self._finish(*scores.shape[:2])

    @property
    def n(self) -> int:
        return int(self.scores.shape[0])

    @property
    def trials(self) -> int:
        return int(self.scores.shape[2])

    def take(self, rows: np.ndarray) -> ScoreEvidence:
        return replace(self, scores=self.scores[rows], labels=_taken(self.labels, rows))


_WORDS = {
    "ProbEvidence": "probabilities ('probs')",
    "VoteEvidence": "votes ('votes')",
    "BoxEvidence": "boxes ('lower', 'upper')",
    "ScoreEvidence": "score samples ('scores')",
}


def in_words(kind: str) -> str:
    """What the evidence class named ``kind`` holds, and the field of an evidence file it comes from."""
    return _WORDS.get(kind, kind)


@runtime_checkable
class SampleEvidence(Protocol):
    """Network outputs under noise, streamed. ``chunks`` yields row numbers and probabilities ``[b, M, V]``."""

    @property
    def n(self) -> int: ...
    @property
    def labels(self) -> np.ndarray | None: ...
    @property
    def predicates(self) -> tuple[str, ...]: ...
    @property
    def class_kind(self) -> ClassKind: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def sigma(self) -> float: ...
    @property
    def trials(self) -> int: ...

    def chunks(self, rows: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, torch.Tensor]]: ...


Evidence = ProbEvidence | VoteEvidence | BoxEvidence | ScoreEvidence | SampleEvidence


@dataclass(frozen=True, eq=False)
class CachedSamples(_Record):
    """Probabilities under noise as ``codes`` uint16 ``[n, M, V]`` (an array or a memory map), see ``encode``."""

    codes: np.ndarray
    sigma: float
    predicates: tuple[str, ...]
    labels: np.ndarray | None = None
    class_kind: ClassKind = "binary"
    num_classes: int = 0

    def __post_init__(self) -> None:
        if self.codes.ndim != 3 or self.codes.dtype != np.uint16:
            raise InputError(f"field 'codes': {self.codes.dtype} {self.codes.shape}; give uint16 of shape [n,M,V]")
        self._noise(self.sigma)
        self._finish(self.codes.shape[0], self.codes.shape[2])

    @property
    def n(self) -> int:
        return int(self.codes.shape[0])

    @property
    def trials(self) -> int:
        return int(self.codes.shape[1])

    def take(self, rows: np.ndarray) -> CachedSamples:
        return replace(self, codes=np.asarray(self.codes[rows]), labels=_taken(self.labels, rows))

    def chunks(self, rows: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        import torch

        index = np.arange(self.n) if rows is None else np.asarray(rows, dtype=np.int64)
        block = max(1, CACHE_BLOCK // max(1, self.trials * len(self.predicates)))
        for start in range(0, index.size, block):
            part = index[start : start + block]
            values = (np.asarray(self.codes[part], dtype=np.float32) + np.float32(0.5)) / np.float32(LEVELS)
            yield part, torch.from_numpy(values)


def encode(probs: np.ndarray) -> np.ndarray:
    """uint16 codes ``floor(65536 p)`` clipped to 0..65535, of probabilities of any shape."""
    return np.clip(np.floor(np.asarray(probs, dtype=np.float64) * LEVELS), 0, LEVELS - 1).astype(np.uint16)


def _taken(labels: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if labels is None else labels[rows]


def votes_from_samples(evidence: SampleEvidence) -> VoteEvidence:
    """Hard votes, streamed: class = one-hot argmax of the class columns (first on ties), concept = ``p > 0.5``."""
    classes, width = evidence.num_classes, len(evidence.predicates)
    votes = np.zeros((evidence.n, width), dtype=np.int64)
    for rows, samples in evidence.chunks():
        values = samples.numpy()
        winner = values[..., :classes].argmax(axis=-1)
        votes[rows, :classes] = (winner[..., None] == np.arange(classes)).sum(axis=1)
        votes[rows, classes:] = (values[..., classes:] > 0.5).sum(axis=1)
    return VoteEvidence(
        votes,
        evidence.trials,
        float(evidence.sigma),
        evidence.predicates,
        evidence.labels,
        evidence.class_kind,
        classes,
    )


def load_evidence(path: str | Path) -> ProbEvidence | VoteEvidence | BoxEvidence | ScoreEvidence:
    """Read an evidence file; see :func:`neurosym.certify.evidence_file.load_evidence`."""
    from neurosym.certify import evidence_file

    return evidence_file.load_evidence(path)


def save_evidence(path: str | Path, evidence: ProbEvidence | VoteEvidence | BoxEvidence | ScoreEvidence) -> None:
    """Write an evidence file; see :func:`neurosym.certify.evidence_file.save_evidence`."""
    from neurosym.certify import evidence_file

    evidence_file.save_evidence(path, evidence)
