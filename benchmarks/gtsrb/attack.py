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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import load_samples

from neurosym.certify.attacks import pgd
from neurosym.certify.evidence import VoteEvidence, votes_from_samples
from neurosym.certify.methods import colep
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.sampling import ModelEvidence
from neurosym.certify.study import split_rows
from neurosym.logic.knowledge import KnowledgeBase
from neurosym.models.checkpoint import load_checkpoint
from neurosym.models.data import ImageSet, load_images

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
    moved = pgd(
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


@dataclass(frozen=True)
class Study:
    """What all attacks of one data set share."""

    options: argparse.Namespace
    table: dict[str, Any]
    kb: KnowledgeBase
    test: ImageSet
    rows: np.ndarray

    def layer(self, label: str, radius: str) -> tuple[list[dict[str, Any]], str, Reasoning]:
        """The table's rows at the sigma chosen most often, that sigma, and the layer chosen most often there."""
        mine = [row for row in self.table["rows"] if row["row"] == label and row["radius"] == radius]
        (sigma,) = modal(mine, "sigma")
        mine = [row for row in mine if row["sigma"] == sigma]
        informed = [row for row in mine if row["circuit"] != "none"]
        circuit, scale = modal(informed or mine, "circuit", "scale")
        return mine, sigma, Reasoning(self.kb, circuit, "categorical", scale)

    def attacked(self, radius: str, sigma: str, layer: Reasoning) -> tuple[np.ndarray, VoteEvidence, dict[str, float]]:
        """Scores, votes and facts of the attacked images, from the cache if they are there."""
        name, trials = self.options.set, self.table["trials"]
        file = f"{name}_{radius}_{sigma}_{layer.circuit}_{layer.scale}_{self.options.images}.npz"
        place = self.options.cache / file
        if not place.exists():
            model = load_checkpoint(self.options.runs / f"{name}_{sigma}")
            scores, votes, facts = attacked_scores(model, self.test, self.rows, radius, sigma, layer, trials)
            self.options.cache.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(place, scores=scores, votes=votes.votes, facts=json.dumps(facts))
        with np.load(place) as archive:
            labels = self.test.labels[self.rows]
            votes = VoteEvidence(
                archive["votes"], trials, float(sigma), self.kb.predicates, labels, "categorical", self.kb.num_classes
            )
            return archive["scores"], votes, json.loads(str(archive["facts"]))

    def inside(self, seed: int) -> np.ndarray:
        """bool ``[images]``: attacked images in the test part of a split."""
        return np.isin(self.rows, split_rows(len(self.test), seed).test)


def summarised(label: str, alpha: str, radius: str, hits: list[np.ndarray]) -> dict[str, Any]:
    return {
        "row": label,
        "alpha": alpha,
        "radius": radius,
        "splits": len(hits),
        "images_each": float(np.mean([len(hit) for hit in hits])) if hits else 0.0,
        "coverage": float(np.mean([hit.mean() for hit in hits])) if hits else None,
    }


def attack_radius(study: Study, radius: str, clean: dict[str, VoteEvidence]) -> tuple[list[Any], list[Any]]:
    """Facts of the attacks at one radius, and the coverage in each of its cells."""
    known: dict[tuple[str, str, float], np.ndarray] = {}
    details, cells = [], []
    for label in LABELS:
        mine, sigma, layer = study.layer(label, radius)
        scores, votes, facts = study.attacked(radius, sigma, layer)
        known[sigma, layer.circuit, layer.scale] = scores
        where = {"row": label, "radius": radius, "sigma": sigma, "circuit": layer.circuit, "scale": layer.scale}
        details.append({**where, **facts})
        print(details[-1], flush=True)
        for alpha in sorted({row["alpha"] for row in mine}, key=float, reverse=True):
            hits = []
            for row in mine:
                key = (row["sigma"], row["circuit"], row["scale"])
                # A split counts where its own layer was attacked: none, COLEP's, or the one chosen most often.
                if row["alpha"] != alpha or key not in known:
                    continue
                part = study.inside(row["seed"])
                if label == COLEP:
                    hits.append(colep_hits(clean[sigma], votes.take(np.flatnonzero(part)), row, layer))
                else:
                    enough = (known[key] <= row["threshold"]).sum(axis=1) >= row["votes_needed"]
                    hits.append(enough[part])
            cells.append(summarised(label, alpha, radius, hits))
    return details, cells


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
    study = Study(options, table, kb, test, rows)
    clean = {
        sigma: votes_from_samples(load_samples(options.samples, f"{options.set}_{sigma}", table["trials"], kb))
        for sigma in sorted({row["sigma"] for row in table["rows"]})
    }
    parts = [attack_radius(study, r, clean) for r in sorted({row["radius"] for row in table["rows"]}, key=float)]
    result = {
        "set": options.set,
        "images": options.images,
        "steps": STEPS,
        "draws": DRAWS,
        "attacks": [item for details, _ in parts for item in details],
        "cells": [item for _, cells in parts for item in cells],
    }
    path = RESULTS / f"{options.set}_attack.json"
    path.with_suffix(".tmp").write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".tmp").replace(path)


if __name__ == "__main__":
    main()
