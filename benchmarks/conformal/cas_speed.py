"""Speed of CDF bounds of smoothed scores: sort and dot product, counts on a grid, and one comparison matrix a bound.

    python -m benchmarks.conformal.cas_speed [--points 2048] [--classes 10] [--draws 1000] [--rounds 5] [--threads 2]

The three take turns within a round; the table shows medians of seconds of wall clock time. "comparison matrices" is the way
that builds, for each point and class, a matrix of all pairs of draws to find the empirical distribution function; it runs
on a few bounds only and is scaled up, which the record says. Result: ``benchmarks/results/cas_speed.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from scipy import special

from neurosym.certify.cdf_bound import cdf_bound, counted_bound, tail_table
from neurosym.certify.counting import all_counts, plain_grid
from neurosym.certify.evidence import ScoreEvidence
from neurosym.certify.reasoning import Reasoning

RESULT = Path(__file__).parent.parent / "results" / "cas_speed.json"
RATIO, FAILURE = 0.5, 0.001
SAMPLE = 100  # bounds that are made through comparison matrices


def sort_and_dot(scores: np.ndarray, threads: int) -> np.ndarray:
    """Upper bounds ``[n, K]``; blocks of points on ``threads`` threads (sorting leaves the interpreter lock)."""
    table = tail_table(scores.shape[-1], RATIO, "dkw", FAILURE, scores.shape[-1], "upper")
    blocks = np.array_split(scores, 8 * threads)
    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(lambda block: cdf_bound(block, table, "upper"), blocks)))


def on_a_grid(scores: np.ndarray) -> np.ndarray:
    """Upper bounds ``[n, K]`` through counts, as the method computes them."""
    n, classes, draws = scores.shape
    evidence = ScoreEvidence(scores, 1.0, tuple(f"c{j}" for j in range(classes)))
    grid = plain_grid("lac", classes)
    counts = all_counts(evidence, Reasoning(num_classes=classes), "lac", np.zeros(n), grid)
    return counted_bound(counts, grid.steps, tail_table(draws, RATIO, "dkw", FAILURE, grid.cells, "upper"), "upper")


def comparison_matrices(rows: np.ndarray) -> np.ndarray:
    """The same bounds ``[m]`` of ``[m, M]``, one matrix of all pairs for each."""
    draws = rows.shape[1]
    width = np.sqrt(np.log(1 / FAILURE) / (2 * draws))
    found = []
    for row in rows:
        at = np.concatenate([[0.0], np.sort(row), [1.0]])
        share = (row[None, :] >= at[1:, None]).mean(axis=1)
        moved = special.ndtr(special.ndtri(np.minimum(1.0, share + width)) + RATIO)
        found.append(float(np.diff(at) @ moved))
    return np.array(found)


def timed(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("points", 2048), ("classes", 10), ("draws", 1000), ("rounds", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    scores = np.random.default_rng(0).beta(0.7, 1.5, (args.points, args.classes, args.draws))
    sample = scores.reshape(-1, args.draws)[:SAMPLE]
    scale = args.points * args.classes / len(sample)
    works: dict[str, Callable[[], np.ndarray]] = {
        "sort and dot, 1 thread": lambda: sort_and_dot(scores, 1),
        f"sort and dot, {args.threads} threads": lambda: sort_and_dot(scores, args.threads),
        "counts on a grid, 1 thread": lambda: on_a_grid(scores),
        "comparison matrices, 1 thread": lambda: comparison_matrices(sample),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    found: dict[str, np.ndarray] = {}
    for _ in range(args.rounds):
        for name, work in works.items():
            spent, found[name] = timed(work)
            seconds[name].append(spent * (scale if name.startswith("comparison") else 1.0))
    exact = found["sort and dot, 1 thread"]
    difference = float(np.abs(found["comparison matrices, 1 thread"] - exact.ravel()[: len(sample)]).max())
    record = {
        "points": args.points,
        "classes": args.classes,
        "draws": args.draws,
        "rounds": args.rounds,
        "median_seconds": {name: round(statistics.median(values), 4) for name, values in seconds.items()},
        "comparison_matrices_scaled_from": len(sample),
        "largest_difference_from_comparison_matrices": difference,
        "largest_difference_of_the_grid": float(np.abs(found["counts on a grid, 1 thread"] - exact).max()),
        "machine": {"processor": platform.processor() or platform.machine(), "python": platform.python_version(), "numpy": np.__version__},
    }  # fmt: skip
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    for name, value in record["median_seconds"].items():  # type: ignore[attr-defined]
        print(f"{name:32s} {value:9.3f} s")


if __name__ == "__main__":
    main()
