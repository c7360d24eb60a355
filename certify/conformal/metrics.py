"""What is worth knowing about prediction sets ``bool[n, K]``: coverage, sizes, and where coverage is uneven.

Intervals are exact (Clopper & Pearson 1934); each holds by itself, not all of them together. Coverage gap: mean over
classes of ``|coverage_k - (1 - alpha)|`` (Ding et al. 2023). Size-stratified coverage violation: the largest
``|coverage - (1 - alpha)|`` over strata of set sizes (Angelopoulos et al. 2021, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurosym.certify.conformal.arrays import Array, groups_of, is_tensor, labels_of
from neurosym.certify.coverage import EVALUATION_FAILURE, Proportion, SetSizes, proportion
from neurosym.certify.exact import Number
from neurosym.certify.quantile import level
from neurosym.errors import InputError

STRATA = (0, 1, 2, 4, 11, 101, 1001)  # first size of each stratum: 0, 1, 2-3, 4-10, 11-100, 101-1000, more


@dataclass(frozen=True)
class Stratum:
    """Sets with ``smallest <= size <= largest`` (no limit if None) and their coverage."""

    smallest: int
    largest: int | None
    coverage: Proportion


@dataclass(frozen=True)
class SetReport:
    """Measures of the sets of ``n`` labelled points.

    Attributes:
        alpha: target miscoverage.
        coverage: how many sets hold their label.
        sizes: histogram; ``mean``, ``median``, ``empty``, ``singletons``.
        singleton_hits: how many sets of one label hold the true one, out of those sets.
        strata: coverage by set size.
        classes, groups: coverage given the true class, and given the group (empty without groups).
    """

    alpha: float
    coverage: Proportion
    sizes: SetSizes
    singleton_hits: Proportion
    strata: tuple[Stratum, ...]
    classes: tuple[Proportion, ...]
    groups: tuple[Proportion, ...]

    @property
    def n(self) -> int:
        return self.coverage.total

    @property
    def mean_size(self) -> float:
        return self.sizes.mean

    @property
    def empty_rate(self) -> float:
        return self.sizes.empty / self.n if self.n else float("nan")

    @property
    def singleton_rate(self) -> float:
        return self.sizes.singletons / self.n if self.n else float("nan")

    @property
    def class_gap(self) -> float:
        """Mean over the classes that occur of ``|coverage_k - (1 - alpha)|``."""
        return _gap(self.classes, self.alpha, worst=False)

    @property
    def worst_class(self) -> int:
        """The class of smallest coverage among those that occur; -1 without points."""
        rates = [part.rate if part.total else np.inf for part in self.classes]
        return int(np.argmin(rates)) if self.n else -1

    @property
    def size_violation(self) -> float:
        """Largest ``|coverage - (1 - alpha)|`` over the strata that occur."""
        return _gap([stratum.coverage for stratum in self.strata], self.alpha, worst=True)

    def describe(self) -> str:
        """A few lines for people."""
        cover = self.coverage
        return "\n".join(
            (
                f"coverage {cover.rate:.4f} [{cover.lower:.4f}, {cover.upper:.4f}], target {1 - self.alpha:g}, n {self.n}",
                f"set size mean {self.mean_size:.2f}, median {self.sizes.median}",
                f"empty {self.empty_rate:.2%}, singletons {self.singleton_rate:.2%}, right {self.singleton_hits.rate:.2%}",
                f"class gap {self.class_gap:.4f}, size-stratified violation {self.size_violation:.4f}",
            )
        )


def _gap(parts: Sequence[Proportion], alpha: float, worst: bool) -> float:
    gaps = [abs(part.rate - (1.0 - alpha)) for part in parts if part.total]
    if not gaps:
        return float("nan")
    return max(gaps) if worst else float(np.mean(gaps))


def sizes_and_hits(sets: Array, labels: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Set sizes int ``[n]``, whether each set holds its label bool ``[n]``, and the labels int ``[n]``.

    Raises:
        InputError: not a boolean table, or bad labels.
    """
    if str(getattr(sets, "dtype", "")) not in ("bool", "torch.bool") or sets.ndim != 2:
        raise InputError("field 'sets': give a boolean array or tensor of shape [n,K]")
    truth = labels_of(labels, *sets.shape)
    if is_tensor(sets):
        import torch

        own = torch.as_tensor(truth, device=sets.device)[:, None]
        return sets.sum(dim=1).cpu().numpy(), sets.gather(1, own)[:, 0].cpu().numpy(), truth
    return sets.sum(axis=1), sets[np.arange(truth.size), truth], truth


def report(
    sets: Array,
    labels: Array,
    *,
    alpha: Number,
    groups: Array | None = None,
    strata: Sequence[int] = STRATA,
    failure: Number = EVALUATION_FAILURE,
) -> SetReport:
    """Every measure of sets ``bool[n, K]`` against labels ``[n]``.

    Args:
        groups: int ``[n]``, for coverage by group.
        strata: first size of each stratum, increasing from 0; strata without a set are left out.
        failure: probability with which each interval may miss.
    """
    size, hit, truth = sizes_and_hits(sets, labels)
    if list(strata) != sorted(set(strata)) or not strata or strata[0] != 0:
        raise InputError(f"strata: {tuple(strata)}; give increasing sizes that start with 0")
    classes = int(sets.shape[1])
    place = np.searchsorted(np.asarray(strata), size, side="right") - 1
    by_size = _by(place, hit, len(strata), failure)
    last = [first - 1 for first in strata[1:]]
    return SetReport(
        alpha=float(level(alpha)),
        coverage=proportion(int(hit.sum()), hit.size, failure),
        sizes=SetSizes(np.bincount(size, minlength=classes + 1)),
        singleton_hits=proportion(int(hit[size == 1].sum()), int((size == 1).sum()), failure),
        strata=tuple(
            Stratum(int(low), high, part)
            for low, high, part in zip(strata, [*last, None], by_size, strict=True)
            if part.total
        ),
        classes=_by(truth, hit, classes, failure),
        groups=()
        if groups is None
        else _by(member := groups_of(groups, hit.size), hit, int(member.max(initial=-1)) + 1, failure),
    )


def _by(member: np.ndarray, hit: np.ndarray, count: int, failure: Number) -> tuple[Proportion, ...]:
    """Coverage of each part."""
    total = np.bincount(member, minlength=count)
    good = np.bincount(member[hit], minlength=count)
    return tuple(proportion(int(k), int(n), failure) for k, n in zip(good, total, strict=True))
