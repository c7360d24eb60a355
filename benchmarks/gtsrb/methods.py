"""Every smoothing method on one network, one set of noise draws and the same splits: robust set size at the same guarantee.

For each split 20 % of the images tune, 40 % calibrate, 40 % are measured, as in ``table.py``; all methods see the network's
class probabilities without rules, and then "auto" chooses among methods and reasoning layers on the tuning images. RSCP is
asymptotic: it pays for no Monte-Carlo error, so its row is not at the same guarantee.

    python benchmarks/gtsrb/methods.py --set gtsrb12 --samples runs/samples --trials 256
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import Remembered
from table import ALPHAS, RADII, RESULTS, load_samples, parts

from neurosym.certify.classifier import RobustConformalClassifier
from neurosym.certify.evidence import votes_from_samples
from neurosym.certify.study import split_rows
from neurosym.logic.knowledge import KnowledgeBase

HERE = Path(__file__).resolve().parent
SIGMA = "0.25"
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "BinCP": ("bincp", {}),
    "CAS, bound at calibration": ("cas", {"at": "calibration"}),
    "CAS, bound at test": ("cas", {"at": "test"}),
    "CAS, DKW band": ("cas", {"at": "calibration", "band": "dkw"}),
    "RSCP+": ("rscp_plus", {}),
    "RCP1": ("rcp1", {}),
    "COLEP on votes, no rules": ("colep", {}),
    "RSCP (asymptotic)": ("rscp", {}),
    "auto, no rules": ("auto", {}),
    "auto, with rules": ("auto", {}),
}


def classifier(label: str, alpha: str, radius: str, seed: int, kb: KnowledgeBase) -> RobustConformalClassifier:
    """The row's predictor, not calibrated yet."""
    method, options = ROWS[label]
    circuit: Any = "auto" if label == "auto, with rules" else "none"
    return RobustConformalClassifier(method, alpha, radius, kb, circuit=circuit, seed=seed, options=options)


def measure(make: Callable[[], RobustConformalClassifier], evidence: list[Any]) -> dict[str, Any]:
    """Mean size and coverage of the test sets, the method used, and CPU seconds."""
    start = time.process_time()
    clf = make().conformalize(evidence[1], tuning=evidence[0])
    sets = clf.predict_set(evidence[2])
    labels = evidence[2].labels
    return {
        "size": float(sets.sum(axis=1).mean()),
        "coverage": float(sets[np.arange(len(sets)), labels].mean()),
        "method": clf.method,
        "circuit": None if clf.reasoning is None else clf.reasoning.circuit,
        "cpu_seconds": round(time.process_time() - start, 2),
    }


def run(name: str, folder: Path, trials: int, splits: int) -> list[dict[str, Any]]:
    kb = KnowledgeBase.from_yaml(HERE / f"{name}.yaml")
    samples = load_samples(folder, f"{name}_{SIGMA}", trials, kb)
    remembered, votes = Remembered.of(samples), votes_from_samples(samples)
    found = []
    for seed in range(splits):
        split = split_rows(samples.n, seed)
        for alpha in ALPHAS:
            for radius in RADII:
                for label, (method, _) in ROWS.items():
                    evidence = parts(votes if method == "colep" else remembered, split)
                    facts = measure(lambda a=alpha, r=radius, s=seed, t=label: classifier(t, a, r, s, kb), evidence)  # type: ignore[misc]
                    found.append({"row": label, "alpha": alpha, "radius": radius, "seed": seed, **facts})
        print(f"split {seed + 1}/{splits}", flush=True)
    return found


def table(rows: list[dict[str, Any]], name: str, trials: int, splits: int) -> str:
    """Markdown: mean robust set size and its standard error over splits; coverage of clean images."""
    cells = [(a, r) for a in ALPHAS for r in RADII]
    lines = [
        f"# Smoothing methods on {name}: mean robust set size",
        "",
        f"One network (sigma {SIGMA}), {trials} draws an image, {splits} random splits; standard errors are over splits,",
        "which share images. All rows but RSCP hold their guarantee with finitely many draws.",
        "",
        "| method | "
        + " | ".join(f"alpha {a}, radius {r}" for a, r in cells)
        + " | lowest clean coverage - (1 - alpha) |",
        "|---|" + "---|" * (len(cells) + 1),
    ]
    for label in ROWS:
        shown, margins = [], []
        for alpha, radius in cells:
            mine = [x for x in rows if (x["row"], x["alpha"], x["radius"]) == (label, alpha, radius)]
            sizes = np.array([x["size"] for x in mine])
            shown.append(f"{sizes.mean():.2f} ± {sizes.std(ddof=1) / np.sqrt(len(sizes)):.2f}")
            margins.append(float(np.mean([x["coverage"] for x in mine])) - (1 - float(alpha)))
        lines.append(f"| {label} | " + " | ".join(shown) + f" | {min(margins):+.3f} |")
    chosen = [x["method"] for x in rows if x["row"] == "auto, no rules"]
    counts = {m: chosen.count(m) for m in sorted(set(chosen))}
    lines += ["", f"Auto without rules chose: {', '.join(f'{m} {c} times' for m, c in counts.items())}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="gtsrb12", choices=("gtsrb12", "gtsrb43"))
    parser.add_argument("--samples", type=Path, default=Path("runs/samples"))
    parser.add_argument("--trials", type=int, default=256)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = run(options.set, options.samples, options.trials, options.splits)
    settings = {"set": options.set, "trials": options.trials, "splits": options.splits, "sigma": SIGMA}
    stem = options.out / f"{options.set}_methods"
    stem.with_suffix(".json").write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(rows, options.set, options.trials, options.splits))
    print(stem.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
