"""One measurement in a process of its own: python contestant.py CONTESTANT SCORE FOLDER; prints JSON.

Also run by the interpreters of other packages, so it needs numpy and the contestant alone. FOLDER holds ``cal.npy``,
``cal_y.npy``, ``test.npy``, ``test_y.npy`` (probabilities float32 and labels). CPU seconds of one thread; extra memory
is the growth of the process's peak resident size over the call, which counts everything, the result included.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import types
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ALPHA = 0.1
Calibrate = Callable[[np.ndarray, np.ndarray], None]
Predict = Callable[[np.ndarray], Any]


def neurosym(score: str) -> tuple[Calibrate, Predict, str]:
    from neurosym.certify import ConformalClassifier

    classifier = ConformalClassifier(score, str(ALPHA))
    return classifier.conformalize, classifier.predict_set, version("neurosym")


def neurosym_p(score: str) -> tuple[Calibrate, Predict, str]:
    from neurosym.certify import ConformalClassifier

    classifier = ConformalClassifier(score, str(ALPHA))
    return classifier.conformalize, classifier.predict_p, version("neurosym")


def values_only(score: str) -> tuple[Calibrate, Predict, str]:
    """The yardstick: one comparison (lac), or one sort of the values in blocks that stay in the cache."""

    def predict(probs: np.ndarray) -> np.ndarray:
        if score == "lac":
            return probs >= np.float32(0.001)
        for start in range(0, len(probs), 256):
            np.sort(probs[start : start + 256], axis=1)
        return np.zeros((0, probs.shape[1]), dtype=bool)

    return lambda probs, y: None, predict, np.__version__


def torchcp(score: str) -> tuple[Calibrate, Predict, str]:
    """Scores of given probabilities (``identity``), with the package's own randomisation.

    Its import needs ``torchsort``, which serves conformal training alone and does not build without a GPU toolchain: an
    empty module stands in.
    """
    empty: Any = types.ModuleType("torchsort")
    empty.soft_rank = empty.soft_sort = None
    sys.modules.setdefault("torchsort", empty)
    import torch
    from torchcp.classification import score as scores
    from torchcp.classification.predictor import SplitPredictor

    torch.set_num_threads(1)
    predictor = SplitPredictor(getattr(scores, score.upper())(score_type="identity"), model=None)

    def calibrate(probs: np.ndarray, y: np.ndarray) -> None:
        predictor.calculate_threshold(torch.from_numpy(probs), torch.from_numpy(y), ALPHA)

    def predict(probs: np.ndarray) -> Any:
        with torch.no_grad():
            return predictor.predict_with_logits(torch.from_numpy(probs)).bool().numpy()

    return calibrate, predict, version("torchcp")


def mapie(score: str) -> tuple[Calibrate, Predict, str]:
    """An estimator whose features are its probabilities; default settings of ``predict_set``."""
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        def fit(self, features: np.ndarray, y: np.ndarray) -> Any:
            return self

        def predict_proba(self, features: np.ndarray) -> np.ndarray:
            return features

        def predict(self, features: np.ndarray) -> np.ndarray:
            return features.argmax(axis=1)

    estimator = Given()
    held: list[Any] = []

    def calibrate(probs: np.ndarray, y: np.ndarray) -> None:
        estimator.classes_ = np.arange(probs.shape[1])
        estimator.n_features_in_ = probs.shape[1]
        estimator.is_fitted_ = True
        model = SplitConformalClassifier(estimator, 1 - ALPHA, score, prefit=True, random_state=0)
        held.append(model.conformalize(probs, y))

    return calibrate, lambda probs: held[0].predict_set(probs)[1][:, :, 0], version("mapie")


CONTESTANTS: dict[str, Callable[[str], tuple[Calibrate, Predict, str]]] = {
    "neurosym": neurosym,
    "neurosym p-values": neurosym_p,
    "values only": values_only,
    "torchcp": torchcp,
    "mapie": mapie,
}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, score: str, folder: Path) -> dict[str, Any]:
    data = {key: np.load(folder / f"{key}.npy") for key in ("cal", "cal_y", "test", "test_y")}
    calibrate, predict, release = CONTESTANTS[name](score)
    begin = time.process_time()
    calibrate(data["cal"], data["cal_y"])
    calibration = time.process_time() - begin
    predict(data["test"][:64])  # imports and caches of a first call
    before, begin = peak_mb(), time.process_time()
    result = predict(data["test"])
    seconds, extra = time.process_time() - begin, peak_mb() - before
    answer = {"version": release, "seconds": seconds, "calibration_seconds": calibration, "extra_mb": extra}
    sets = result > ALPHA if name.endswith("p-values") else np.asarray(result)
    if len(sets):
        rows = np.arange(len(sets))
        answer |= {"coverage": float(sets[rows, data["test_y"]].mean()), "size": float(sets.sum(axis=1).mean())}
    return answer


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(measure(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
