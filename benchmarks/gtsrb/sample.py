"""Noise samples of the trained networks on all official GTSRB test images: the one expensive step, done once.

For each network (set, sigma) the predicate probabilities of every test image under ``--trials`` noise draws are cached
as uint16 ``[n, M, V]``; every table is computed from these caches by the functions that the command line runs.
Interrupted runs continue where they stopped.

Usage: NEUROSYM_DATA=DIR python benchmarks/gtsrb/sample.py --set gtsrb12 --runs runs --out runs/samples
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from neurosym.certify.sampling import ModelEvidence, cache_samples
from neurosym.models.checkpoint import load_card, load_checkpoint
from neurosym.models.data import load_images

SIGMAS = ("0.12", "0.25", "0.5")
TRIALS = {"gtsrb12": 512, "gtsrb43": 256}
SEED = 20_260


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=sorted(TRIALS), required=True)
    parser.add_argument("--sigmas", nargs="*", default=list(SIGMAS))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("runs/samples"))
    parser.add_argument("--trials", type=int)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(1)
    test = load_images(options.set, os.environ["NEUROSYM_DATA"], "test")
    options.out.mkdir(parents=True, exist_ok=True)
    trials = options.trials or TRIALS[options.set]
    for sigma in options.sigmas:
        name = f"{options.set}_{sigma}"
        model = load_checkpoint(options.runs / name)
        start = time.perf_counter()
        evidence = ModelEvidence(
            model,
            test,
            sigma,
            trials,
            SEED,
            labels=test.labels,
            device=options.device,
            workers=options.workers,
        )
        cached = cache_samples(evidence, options.out / name)
        seconds = time.perf_counter() - start
        clean = ModelEvidence(model, test, 0, 1, SEED, labels=test.labels, device=options.device, progress=False)
        probs = np.concatenate([chunk[:, 0].numpy() for _, chunk in clean.chunks()])
        accuracy = float((probs[:, : model.num_classes].argmax(1) == test.labels).mean())
        np.savez_compressed(options.out / f"{name}_clean.npz", probs=probs, labels=test.labels)
        facts = {
            "set": options.set,
            "sigma": sigma,
            "trials": trials,
            "seed": SEED,
            "images": len(test),
            "data_sha256": test.digest(),
            "weights_sha256": load_card(options.runs / name)["weights_sha256"],
            "clean_accuracy": accuracy,
            "seconds": round(seconds, 1),
            "draws_per_second": round(len(test) * trials / seconds),
            "device": str(evidence.device),
            "threads": 1,
            "workers": options.workers,
        }
        (options.out / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
        print(facts, cached.codes.shape, flush=True)


if __name__ == "__main__":
    main()
