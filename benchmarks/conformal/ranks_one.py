"""Ranks chosen by one implementation: python ranks_one.py NAME FOLDER; reads ``pairs.txt``, writes ``NAME.json``.

Calibration scores are 1, 2, ..., n, so that a threshold t keeps the scores up to floor(t): its rank. Where a function is
not importable here it is written out from its source and the name says "formula". Also run by other interpreters.
"""

from __future__ import annotations

import json
import math
import sys
import types
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Rank = Callable[[int, float], float]  # (n, alpha) -> threshold among scores 1..n; inf, or an error for "too few points"


def mapie() -> tuple[Rank, str, str]:
    from mapie.utils import _compute_classification_quantile, _transform_confidence_level_to_alpha_list

    def rank(n: int, alpha: float) -> float:
        levels = _transform_confidence_level_to_alpha_list(round(1 - alpha, 12))
        scores = np.arange(1.0, n + 1)[:, None]
        return float(_compute_classification_quantile(scores, np.array(levels))[0])

    return rank, version("mapie"), "its quantile function called"


def torchcp() -> tuple[Rank, str, str]:
    empty: Any = types.ModuleType("torchsort")
    empty.soft_rank = empty.soft_sort = None
    sys.modules.setdefault("torchsort", empty)
    import torch
    from torchcp.utils.common import calculate_conformal_value

    torch.set_num_threads(1)
    return (
        lambda n, alpha: float(calculate_conformal_value(torch.arange(1.0, n + 1), alpha)),
        version("torchcp"),
        "its quantile function called",
    )


def puncc() -> tuple[Rank, str, str]:
    from deel.puncc.api.calibration import BaseCalibrator

    def rank(n: int, alpha: float) -> float:
        calibrator = BaseCalibrator(nonconf_score_func=lambda p, y: y, pred_set_func=lambda p, scores_quantile: p)
        calibrator.fit(y_true=np.arange(1.0, n + 1), y_pred=np.zeros(n))
        return float(calibrator.compute_quantile(alpha=alpha))

    return rank, version("puncc"), "its calibrator called"


def crepes() -> tuple[Rank, str, str]:
    from crepes import ConformalClassifier

    def rank(n: int, alpha: float) -> float:
        near = math.ceil((n + 1) * (1 - alpha))
        tried = np.unique(np.clip([near - 2, near - 1, near, near + 1, near + 2], 1, n + 1)).astype(float)
        classifier = ConformalClassifier()
        classifier.fit(np.arange(1.0, n + 1))
        kept = classifier.predict_set(tried[:, None], confidence=round(1 - alpha, 12), smoothing=False)[:, 0]
        best = float(tried[kept.astype(bool)].max())
        return math.inf if best == n + 1 else best

    return rank, version("crepes"), "its predict_set called, smoothing=False"


def neurosym() -> tuple[Rank, str, str]:
    from neurosym.certify.conformal import marginal_threshold

    return (
        lambda n, alpha: marginal_threshold(np.arange(1.0, n + 1), alpha),
        version("neurosym"),
        "its threshold function called",
    )


def formulas() -> dict[str, Rank]:
    """Quantiles found in published code, written out."""

    def scores(n: int) -> np.ndarray:
        return np.arange(1.0, n + 1)

    return {
        "quantile(1-a), interpolated (torch-uncertainty 0.13)": lambda n, a: float(np.quantile(scores(n), 1 - a)),
        "quantile(1-a, 'higher') (lightning-uq-box 0.2)": lambda n, a: float(
            np.quantile(scores(n), 1 - a, method="higher")
        ),
        "quantile((n+1)(1-a)/n, 'higher') (MAPIE up to 1.5)": lambda n, a: float(
            np.quantile(scores(n), (n + 1) * (1 - a) / n, method="higher")
        ),
        "quantile(ceil((n+1)(1-a))/n, 'higher') (tutorial notebooks)": lambda n, a: float(
            np.quantile(scores(n), np.ceil((n + 1) * (1 - a)) / n, method="higher")
        ),
        "mquantiles((1-a)(1+1/n)), interpolated (RSCP, COLEP code)": lambda n, a: float(
            # scipy.stats.mstats.mquantiles with its defaults alphap = betap = 0.4
            _mquantile(scores(n), (1 - a) * (1 + 1 / n))
        ),
    }


def _mquantile(x: np.ndarray, p: float) -> float:
    if p > 1:
        raise ValueError("level above 1")
    place = x.size * p + 0.4 + p * 0.2
    k = int(np.floor(np.clip(place, 1, x.size - 1)))
    share = float(np.clip(place - k, 0, 1))
    return float((1 - share) * x[k - 1] + share * x[k]) if x.size > 1 else float(x[0])


PACKAGES = {"neurosym": neurosym, "mapie": mapie, "torchcp": torchcp, "puncc": puncc, "crepes": crepes}


def ranks(rank: Rank, pairs: list[tuple[int, str]]) -> list[int | None]:
    """Rank of each pair; n + 1 for an infinite threshold, None where the function refuses."""
    out: list[int | None] = []
    for n, alpha in pairs:
        try:
            threshold = rank(n, float(alpha))
        except (ValueError, RuntimeError, AssertionError):
            out.append(None)
            continue
        out.append(n + 1 if math.isinf(threshold) else math.floor(threshold + 1e-9))
    return out


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    lines = [line.split() for line in (folder / "pairs.txt").read_text().splitlines()]
    pairs = [(int(n), alpha) for n, alpha in lines]
    if name == "formulas":
        found = [{"name": key, "how": "formula", "ranks": ranks(rank, pairs)} for key, rank in formulas().items()]
    else:
        rank, release, how = PACKAGES[name]()
        found = [{"name": f"{name} {release}", "how": how, "ranks": ranks(rank, pairs)}]
    (folder / f"{name}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
