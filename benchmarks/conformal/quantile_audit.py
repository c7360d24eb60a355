"""Which rank does each implementation take for the conformal threshold, and is it the right one?

    python -m benchmarks.conformal.quantile_audit [--peer mapie=PYTHON] [--peer torchcp=PYTHON] [--peer puncc=PYTHON] ...

Right is ``ceil((n+1)(1-alpha))`` for the decimal alpha, in integers; past n it is no finite threshold at all. A smaller
rank breaks the guarantee, a larger one wastes coverage. Ours is asked for every pair of the grid, and through its
threshold function, as the others are, for a random sample. Results: ``benchmarks/results/conformal_quantile_audit.*``.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from neurosym.certify.quantile import conformal_rank

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
SIZES = (*range(1, 2001), 4999, 5000, 9999, 10_000, 49_999, 100_000)
THOUSANDTHS = range(1, 501)
LARGEST_SAMPLED = 10_000  # peers sort or scan the scores for each pair


def right_rank(n: int, thousandths: int) -> int:
    """``ceil((n+1)(1000-a)/1000)`` in integers."""
    return -(-(n + 1) * (1000 - thousandths) // 1000)


def text_of(thousandths: int) -> str:
    return f"{thousandths / 1000:.3f}".rstrip("0")


def audit_ours() -> dict[str, Any]:
    """Every pair of the grid."""
    low = high = pairs = 0
    begin = time.process_time()
    for thousandths in THOUSANDTHS:
        alpha = text_of(thousandths)
        for n in SIZES:
            found, right = conformal_rank(n, alpha), right_rank(n, thousandths)
            low, high, pairs = low + (found < right), high + (found > right), pairs + 1
    return {"pairs": pairs, "too_low": low, "too_high": high, "seconds": time.process_time() - begin}


def compare(entry: dict[str, Any], pairs: list[tuple[int, int]]) -> dict[str, Any]:
    """Counts of one implementation on the sample."""
    counts = {"pairs": 0, "too_low": 0, "too_high": 0, "few": 0, "few_finite": 0, "refused": 0}
    worst, example = 0.0, ""
    for (n, thousandths), found in zip(pairs, entry["ranks"], strict=True):
        right = right_rank(n, thousandths)
        if right > n:  # no finite threshold is valid; an error or inf is an answer
            counts["few"] += 1
            counts["few_finite"] += found is not None and found <= n
            continue
        if found is None:
            counts["refused"] += 1
            continue
        counts["pairs"] += 1
        counts["too_low"] += found < right
        counts["too_high"] += found > right
        if found < right:
            worst = max(worst, (1 - thousandths / 1000) - found / (n + 1))
        if found != right and not example:
            example = f"n={n}, alpha={text_of(thousandths)}: {found} for {right}"
    return {"name": entry["name"], "how": entry["how"], **counts, "worst_loss": worst, "example": example}


def to_markdown(document: dict[str, Any]) -> str:
    ours = document["ours"]
    lines = [
        "# The rank of the conformal threshold",
        "",
        "Right: `ceil((n+1)(1-alpha))` for the decimal alpha, counted in integers. *Too low* breaks the guarantee, *too high*",
        "gives larger sets than needed. The last but one column: pairs with too few points for any finite threshold, and how",
        "many of them got one all the same. Scores are 1..n; an interpolated threshold counts as the rank below it.",
        "",
        f"neurosym's rank function on all {ours['pairs']:,} pairs (n = 1..2000 and six sizes up to 100,000; alpha = 0.001..0.500): "
        f"{ours['too_low']} too low, {ours['too_high']} too high ({ours['seconds']:.0f} s).",
        "",
        f"A random sample of {document['sample']:,} pairs of the grid with n up to {LARGEST_SAMPLED:,}, the same for all:",
        "",
        "| implementation | how | pairs | too low | worst loss of coverage | too high | too few points: finite anyway | first wrong pair |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for e in document["entries"]:
        low, high = (f"{e[key]} ({e[key] / max(1, e['pairs']):.2%})" for key in ("too_low", "too_high"))
        few = f"{e['few_finite']} of {e['few']}"
        lines.append(
            f"| {e['name']} | {e['how']} | {e['pairs']:,} | {low} | {e['worst_loss']:.4f} | {high} | {few} | {e['example']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Audit of conformal ranks")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--sample", type=int, default=20_000)
    options = parser.parse_args()
    grid = [(n, a) for n in SIZES if n <= LARGEST_SAMPLED for a in THOUSANDTHS]
    pairs = random.Random(0).sample(grid, min(options.sample, len(grid)))
    runs = (
        {"neurosym": sys.executable} | dict(text.split("=", 1) for text in options.peer) | {"formulas": sys.executable}
    )
    entries = []
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "pairs.txt").write_text("".join(f"{n} {text_of(a)}\n" for n, a in pairs))
        for name, python in runs.items():
            done = subprocess.run(
                [python, str(HERE / "ranks_one.py"), name, text], capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1:]}")
            entries += [compare(entry, pairs) for entry in json.loads((folder / f"{name}.json").read_text())]
    document = {"ours": audit_ours(), "sample": len(pairs), "entries": entries}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "conformal_quantile_audit.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "conformal_quantile_audit.md").write_text(to_markdown(document))
    print(to_markdown(document))


if __name__ == "__main__":
    main()
