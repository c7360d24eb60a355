"""Coverage under an adaptive PGD-L2 attack for the cells of the GTSRB tables.

For each radius the attack runs at the sigma that the tables chose most often, on a fixed random sample of test images,
against the network alone, through COLEP's circuits, and through the reasoning layer that the tables chose most often:
gradients pass through noise, network, circuit and score. In each split only attacked images of its test part count, with the split's
own thresholds; the noise on attacked images is fresh.

Usage: NEUROSYM_DATA=DIR python benchmarks/gtsrb/attack.py --set gtsrb12 --runs runs --images 150
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import load_samples

from neurosym.certify import colep
from neurosym.certify.attacks import pgd_l2
from neurosym.certify.evidence import VoteEvidence, votes_from_samples
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.sampling import ModelEvidence
from neurosym.certify.study import split_rows
from neurosym.logic.knowledge import KnowledgeBase
from neurosym.models.checkpoint import load_checkpoint
from neurosym.models.data import load_images

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
LABELS = ("model only (BinCP)", "COLEP, published bound", "ours (BinCP + rules)")
COLEP = "COLEP, published bound"
STEPS, DRAWS, SEED, STREAM = 20, 8, 11, 5


def modal(rows: list[dict[str, Any]], *keys: str) -> tuple[Any, ...]:
    return Counter(tuple(row[key] for key in keys) for row in rows).most_common(1)[0][0]


def attacked_scores(
    model: Any, images: Any, rows: np.ndarray, radius: str, sigma: str, reasoning: Reasoning, trials: int
) -> tuple[np.ndarray, VoteEvidence, dict[str, float]]:
    """Attacked images under fresh noise: true-label nonconformity float64 ``[images, M]``, votes, facts."""
    pixels = torch.from_numpy(images.images[rows]).float().div_(255.0)
    labels = torch.from_numpy(images.labels[rows])
    start = time.perf_counter()
    moved = pgd_l2(
        model,
        pixels,
        labels,
        float(radius),
        reasoning,
        float(sigma),
        steps=STEPS,
        draws=DRAWS,
        seed=SEED,
        num_classes=model.num_classes,
        class_kind="categorical",
        indices=rows,
    )
    evidence = ModelEvidence(
        model, [(x, int(y)) for x, y in zip(moved, labels, strict=True)], sigma, trials, SEED,
        labels=labels.numpy(), stream=STREAM, progress=False,
    )  # fmt: skip
    truth = labels.numpy()
    scores = np.empty((len(rows), trials))
    for block, samples in evidence.chunks():
        q = reasoning.class_probabilities(samples.numpy().astype(np.float64))
        scores[block] = 1.0 - q[np.arange(len(block)), :, truth[block]]
    votes = votes_from_samples(evidence)
    winner = votes.votes[:, : model.num_classes].argmax(axis=1)
    return (
        scores,
        votes,
        {
            "smoothed_accuracy": float((winner == truth).mean()),
            "seconds": round(time.perf_counter() - start, 1),
        },
    )


def colep_hits(clean: VoteEvidence, attacked: VoteEvidence, row: dict[str, Any], reasoning: Reasoning) -> np.ndarray:
    """Whether the sets of attacked images hold the true label, calibrated as in the table's split; bool ``[n]``."""
    split = split_rows(clean.n, row["seed"])
    made = colep.calibrate(
        clean.take(split.calibrate), alpha=row["alpha"], radius=row["radius"], reasoning=reasoning, bound="decoupled"
    )
    sets = colep.predict(made, colep.observe(attacked, made, reasoning=reasoning), reasoning=reasoning)
    assert attacked.labels is not None
    return np.asarray(sets[np.arange(attacked.n), attacked.labels])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=("gtsrb12", "gtsrb43"), required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--samples", type=Path, default=Path("runs/samples"))
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--cache", type=Path, default=Path("runs/attacked"), help="attacked outputs, kept between runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = json.loads((RESULTS / f"{options.set}.json").read_text())
    kb = KnowledgeBase.from_yaml(HERE / f"{options.set}.yaml")
    test = load_images(options.set, os.environ["NEUROSYM_DATA"], "test")
    rows = np.sort(np.random.default_rng(SEED).choice(len(test), options.images, replace=False))
    inside = [np.isin(rows, split_rows(len(test), seed).test) for seed in range(table["splits"])]
    sigmas = sorted({row["sigma"] for row in table["rows"]})
    samples = {
        s: votes_from_samples(load_samples(options.samples, f"{options.set}_{s}", table["trials"], kb)) for s in sigmas
    }
    cells, details = [], []
    for radius in sorted({row["radius"] for row in table["rows"]}, key=float):
        known: dict[tuple[str, str, float], np.ndarray] = {}
        for label in LABELS:
            mine = [row for row in table["rows"] if row["row"] == label and row["radius"] == radius]
            (sigma,) = modal(mine, "sigma")
            mine = [row for row in mine if row["sigma"] == sigma]
            informed = [row for row in mine if row["circuit"] != "none"]
            circuit, scale = modal(informed or mine, "circuit", "scale")
            reasoning = Reasoning(kb, circuit, "categorical", scale)
            place = options.cache / f"{options.set}_{radius}_{sigma}_{circuit}_{scale}_{options.images}.npz"
            if not place.exists():
                model = load_checkpoint(options.runs / f"{options.set}_{sigma}")
                made = attacked_scores(model, test, rows, radius, sigma, reasoning, table["trials"])
                options.cache.mkdir(parents=True, exist_ok=True)
                np.savez_compressed(place, scores=made[0], votes=made[1].votes, facts=json.dumps(made[2]))
            with np.load(place) as archive:
                known[sigma, circuit, scale], facts = archive["scores"], json.loads(str(archive["facts"]))
                votes = VoteEvidence(
                    archive["votes"], table["trials"], float(sigma), kb.predicates, test.labels[rows],
                    "categorical", kb.num_classes,
                )  # fmt: skip
            details.append(
                {"row": label, "radius": radius, "sigma": sigma, "circuit": circuit, "scale": scale, **facts}
            )
            print(details[-1], flush=True)
            for alpha in sorted({row["alpha"] for row in mine}, key=float, reverse=True):
                # A split counts where its own layer was attacked: the one chosen most often, or none.
                used = [
                    row
                    for row in mine
                    if row["alpha"] == alpha and (row["sigma"], row["circuit"], row["scale"]) in known
                ]
                rates, counts = [], []
                for row in used:
                    part = inside[row["seed"]]
                    if label == COLEP:
                        hit = colep_hits(samples[sigma], votes.take(np.flatnonzero(part)), row, reasoning)
                    else:
                        scores = known[row["sigma"], row["circuit"], row["scale"]]
                        hit = ((scores <= row["threshold"]).sum(axis=1) >= row["votes_needed"])[part]
                    rates.append(float(hit.mean()))
                    counts.append(len(hit))
                cells.append(
                    {
                        "row": label,
                        "alpha": alpha,
                        "radius": radius,
                        "splits": len(used),
                        "images_each": float(np.mean(counts)) if counts else 0.0,
                        "coverage": float(np.mean(rates)) if rates else None,
                    }
                )
    result = {
        "set": options.set,
        "images": options.images,
        "steps": STEPS,
        "draws": DRAWS,
        "attacks": details,
        "cells": cells,
    }
    path = RESULTS / f"{options.set}_attack.json"
    path.with_suffix(".tmp").write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".tmp").replace(path)


if __name__ == "__main__":
    main()
