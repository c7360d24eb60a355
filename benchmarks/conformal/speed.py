"""Speed and memory of prediction sets for 50,000 rows of 1,000 classes, beside other packages.

    python -m benchmarks.conformal.speed [--peer torchcp=PYTHON] [--peer mapie=PYTHON] [--rounds 3] [--rows 50000]

Every measurement is a fresh process with one thread on the same float32 table; contestants take turns within a round,
and the table shows medians. Results: ``benchmarks/results/conformal_speed.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
SCORES = ("lac", "aps", "raps", "saps")
CLASSES, CALIBRATION, SPREAD = 1000, 10_000, 2.0
NO_SAPS = "mapie"


def write_table(folder: Path, name: str, rows: int, seed: int) -> None:
    """Softmax of normal logits and labels drawn from it, made in blocks so that memory stays small."""
    generator = np.random.default_rng(seed)
    probs = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (rows, CLASSES))
    labels = np.empty(rows, dtype=np.int64)
    for start in range(0, rows, 1000):
        block = slice(start, min(rows, start + 1000))
        z = SPREAD * generator.standard_normal((block.stop - start, CLASSES), dtype=np.float32)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        sums = p.cumsum(axis=1, dtype=np.float64)
        labels[block] = (generator.random((len(p), 1)) * sums[:, -1:] > sums).sum(axis=1)
        probs[block] = p
    probs.flush()
    np.save(folder / f"{name}_y.npy", labels)


def run_one(python: str, name: str, score: str, folder: Path) -> dict[str, Any]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [python, str(HERE / "contestant.py"), name, score, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{name} {score}: {done.stderr.strip().splitlines()[-1:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def measure(rounds: int, rows: int, peers: dict[str, str]) -> list[dict[str, Any]]:
    """Medians over rounds, one entry for each contestant and score."""
    tasks = [(name, score) for score in SCORES for name in ("values only", "neurosym", *peers)]
    tasks = [task for task in tasks if task != (NO_SAPS, "saps")] + [("neurosym p-values", s) for s in ("lac", "aps")]
    found: dict[tuple[str, str], list[dict[str, Any]]] = {task: [] for task in tasks}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        write_table(folder, "cal", CALIBRATION, 1)
        write_table(folder, "test", rows, 2)
        for _ in range(rounds):
            for name, score in tasks:
                found[name, score].append(run_one(peers.get(name, sys.executable), name, score, folder))
    entries = []
    for (name, score), runs in found.items():
        numbers = ("seconds", "calibration_seconds", "extra_mb", "coverage", "size")
        middle = {key: statistics.median(run[key] for run in runs) for key in numbers if key in runs[0]}
        spread = [min(run["seconds"] for run in runs), max(run["seconds"] for run in runs)]
        entries.append({"contestant": name, "score": score, "version": runs[0]["version"], **middle, "range": spread})
    return entries


def to_markdown(document: dict[str, Any]) -> str:
    entries = document["entries"]
    base = {e["score"]: e["seconds"] for e in entries if e["contestant"] == "values only"}
    ours = {e["score"]: e["seconds"] for e in entries if e["contestant"] == "neurosym"}
    lines = [
        "# Prediction sets: speed and memory",
        "",
        f"{document['rows']:,} rows of {CLASSES:,} classes, float32, {CALIBRATION:,} calibration points, alpha 0.1. {document['machine']}",
        f"CPU seconds of one thread in a fresh process each, medians of {document['rounds']} rounds taken in turns (smallest to",
        "largest in brackets). Extra memory: growth of the peak resident size over the call; the result itself is",
        "48 MB (booleans; p-values 381 MB). *Values only* is one comparison (lac) or one `np.sort` of the values in blocks.",
        "Probabilities are a softmax of normal logits with standard deviation 2. Each package uses its own constants",
        "and its own randomisation; p-values are conservative ones of every label.",
        "",
        "| score | contestant | CPU s | of values only | of neurosym | calibration s | extra MB | coverage | mean size |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for e in entries:
        whole = e["contestant"] in ("neurosym", "values only") or "p-values" not in e["contestant"]
        low, high = e["range"]
        same = f"{e['seconds'] / base[e['score']]:.2f}", f"{e['seconds'] / ours[e['score']]:.1f}"
        cover = (
            f"{e['coverage']:.4f} | {e['size']:.1f}" if "coverage" in e and e["contestant"] != "values only" else " | "
        )
        calibration = f"{e['calibration_seconds']:.3f}" if e["contestant"] != "values only" else ""
        lines.append(
            f"| {e['score']} | {e['contestant']} {e['version'] if e['contestant'] != 'values only' else ''} | "
            f"{e['seconds']:.3f} [{low:.3f}, {high:.3f}] | {same[0] if whole else ''} | {same[1]} | {calibration} | "
            f"{e['extra_mb']:.0f} | {cover} |"
        )
    return "\n".join(lines) + "\n"


def machine() -> str:
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{names[0]}, Python {platform.python_version()}, numpy {np.__version__}; load {os.getloadavg()[1]:.1f}."


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of prediction sets")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=50_000)
    options = parser.parse_args()
    peers = dict(text.split("=", 1) for text in options.peer)
    entries = measure(options.rounds, options.rows, peers)
    document = {"machine": machine(), "rounds": options.rounds, "rows": options.rows, "entries": entries}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "conformal_speed.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "conformal_speed.md").write_text(to_markdown(document))
    print(to_markdown(document))


if __name__ == "__main__":
    main()
