"""Sigmoids, sigmoids with semantic loss and the semantic layer on the same small network; JSON and a Markdown table.

Training length (the same for all methods) and the strength of the semantic loss are chosen on the validation images with
a seed of their own; test images are used once for each finished network.

Usage: NEUROSYM_DATA=... python benchmarks/semantic_layer/run.py --task cifar10 --seeds 5
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from layer_tasks import TASKS, Task
from layer_training import BATCH, DECAY, FEATURES, LITERALS, METHODS, RATE, WIDTH, measure, train

RESULTS = Path(__file__).resolve().parents[1] / "results"
LENGTHS = {"cifar10": (1, 3), "digit_sums": (2, 4)}
STRENGTHS = (0.03, 0.3)
SELECTION_SEED = 1000


def select(task: Task) -> dict[str, Any]:
    """Strength by exact matches after the shortest training; then the length by their mean over methods."""
    short, *longer = LENGTHS[task.name]
    log: dict[str, float] = {}

    def exact(method: str, epochs: int, strength: float) -> float:
        key = f"{method}, {epochs} epochs" + (f", strength {strength}" if "semantic loss" in method else "")
        if key not in log:
            model, _ = train(task, method, epochs, strength, SELECTION_SEED)
            log[key] = measure(model, task.validation)[""].exact
            print(task.name, key, log[key], flush=True)
        return log[key]

    strength = max(STRENGTHS, key=lambda s: exact("sigmoids + semantic loss", short, s))
    epochs = max((short, *longer), key=lambda e: mean(exact(method, e, strength) for method in METHODS))
    return {"epochs": epochs, "strength": strength, "validation_exact": log}


def run(task: Task, seeds: int, methods: Sequence[str], before: dict[str, Any]) -> dict[str, Any]:
    """Some methods of one task, every seed; length and strength as chosen in ``before``, if that is not empty."""
    chosen = before["chosen"] if before else select(task)
    rows: dict[str, list[dict[str, float]]] = dict(before.get("rows", {}))
    for method in methods:
        for seed in range(seeds):
            model, spent = train(task, method, chosen["epochs"], chosen["strength"], seed)
            for reading, figures in measure(model, task.test).items():
                kept = rows.get(method + reading, []) if seed else []
                rows[method + reading] = [*kept, asdict(figures)]
            print(task.name, seed, method, round(spent, 1), rows[method][-1], flush=True)
    settings = {"width": WIDTH, "features": FEATURES, "batch": BATCH, "rate": RATE, "decay": DECAY}
    return {
        "chosen": chosen,
        "seeds": seeds,
        "rows": rows,
        "images": {name: len(getattr(task, name).images) for name in ("train", "validation", "test")},
        "predicates": task.kb.num_predicates,
        "settings": {**settings, "torch": torch.__version__},
    }


def markdown(results: dict[str, Any]) -> str:
    """The tables; means and standard deviations over seeds, in per cent."""
    lines = ["# Predictions that obey their rules: sigmoids, semantic loss, semantic layer", ""]
    for name, found in results.items():
        counts, chosen, rows = found["images"], found["chosen"], found["rows"]
        lines += [
            f"## {name}",
            "",
            f"{counts['train']} training, {counts['validation']} validation and {counts['test']} test images, "
            f"{found['predicates']} predicates, {found['seeds']} seeds, {chosen['epochs']} epochs, strength of the semantic "
            f"loss {chosen['strength']} (both chosen on validation images with another seed). Per cent of test images, mean ± "
            "standard deviation over seeds.",
            "",
            "| prediction | all predicates right | leaves right | obeys every rule | difference in leaves to sigmoids, same seed |",
            "|---|---|---|---|---|",
        ]
        for row, values in rows.items():
            cells = [spread([100 * v[key] for v in values]) for key in ("exact", "leaf", "legal")]
            gap = [100 * (v["leaf"] - base["leaf"]) for v, base in zip(values, rows["sigmoids"], strict=True)]
            lines.append(f"| {row} | {' | '.join(cells)} | {spread(gap, sign=True) if row != 'sigmoids' else ''} |")
        lines.append("")
    return "\n".join(lines)


def spread(values: list[float], sign: bool = False) -> str:
    """Mean ± standard deviation."""
    return f"{mean(values):{'+' if sign else ''}.2f} ± {stdev(values):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=sorted(TASKS), action="append")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--method", choices=(*METHODS, LITERALS), action="append", help="only these, beside earlier rows"
    )
    parser.add_argument("--render", action="store_true", help="only write the tables again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "semantic_layer.json"
    for name in options.task or list(TASKS):
        results = json.loads(path.read_text()) if path.exists() else {}
        if not options.render:
            task = TASKS[name](Path(os.environ["NEUROSYM_DATA"]))
            before = results.get(name, {}) if options.method else {}
            results[name] = run(task, options.seeds, options.method or (*METHODS, LITERALS), before)
        for target, text in ((path, json.dumps(results, indent=1)), (path.with_suffix(".md"), markdown(results))):
            fresh = target.with_name(target.name + ".tmp")
            fresh.write_text(text)
            fresh.replace(target)


if __name__ == "__main__":
    main()
