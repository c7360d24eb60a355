"""Circuits beside PySDD, KLay and d4: compile times, evaluation times, memory.

Usage, from the repository's root (needs ``pip install -e .[bench]``):

    NEUROSYM_DATA=... python -m benchmarks.circuits            hours on two slow cores; goes on where it was stopped
    python -m benchmarks.circuits --quick                      two tiny cases, less than a minute
    python -m benchmarks.circuits --only 'hierarchy|awa2' --parts compile,report

Writes ``benchmarks/results/circuits.json`` (after every case), ``circuits.md`` and plots. Every measurement runs in a
process of its own with one thread; times are CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.circuits.compilation import compile_case, disagreements, methods_for, run_child  # noqa: E402
from benchmarks.circuits.report import write_report  # noqa: E402
from benchmarks.circuits.suite import EVALUATED, QUICK, makers  # noqa: E402

PARTS = ("machine", "compile", "evaluate", "memory", "report")


class Results:
    """The JSON file: a section for each part, an entry for each finished measurement."""

    def __init__(self, path: Path, fresh: bool) -> None:
        self.path = path
        self.content: dict[str, Any] = {}
        if path.exists() and not fresh:
            self.content = json.loads(path.read_text())

    def section(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.content.setdefault(name, {})
        return found

    def has(self, section: str, key: str, settings: dict[str, Any]) -> bool:
        """Measured already, with the same settings; what failed other than at a limit is tried again."""
        found = self.section(section).get(key, {})
        return found.get("settings") == settings and ("failed" not in found or found.get("at_limit", False))

    def put(self, section: str, key: str, found: dict[str, Any], settings: dict[str, Any]) -> None:
        self.section(section)[key] = {**found, "settings": settings}
        self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".json.tmp")
        part.write_text(json.dumps(self.content, indent=1) + "\n")
        part.replace(self.path)


def machine(quick: bool) -> dict[str, Any]:
    """What it runs on, and how fast one thread copies memory (read and write counted)."""
    import torch

    torch.set_num_threads(1)
    source = torch.ones((16 if quick else 512) << 18, dtype=torch.float32)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(3 if quick else 7):
        start = time.process_time()
        target.copy_(source)
        best = min(best, time.process_time() - start)
    names = ("torch", "numpy", "numba", "pysdd", "klaycircuits", "d4solver")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
        "copy_bytes_per_second": 2 * source.numel() * 4 / best,
        "load": os.getloadavg()[0],
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), "")


def do_compile(names: list[str], results: Results, work: Path, limit: float) -> None:
    settings = {"limit": limit}
    for name in names:
        for method in methods_for(name):
            key = f"{name}/{method}"
            if results.has("compile", key, settings):
                continue
            found = compile_case(name, method, work, limit)
            results.put("compile", key, found, settings)
            print(f"compile  {key}: {found.get('failed') or format(found['seconds'], '.3f') + ' s'}", flush=True)


def do_evaluate(names: list[str], results: Results, work: Path, settings: dict[str, Any], wall: float) -> None:
    for name in names:
        if results.has("evaluate", name, settings):
            continue
        found = _child_json(
            "evaluate_one",
            [name, str(work), settings["batches"], str(settings["budget"]), str(settings["repeats"])],
            wall,
        )
        results.put("evaluate", name, found, settings)
        print(f"evaluate {name}: {found.get('failed', 'done')}", flush=True)


def do_memory(results: Results, elements: int, batch: int, who_else: tuple[str, ...], wall: float) -> None:
    settings = {"elements": elements, "batch": batch}
    for who in ("neurosym", *who_else):
        if not results.has("memory", who, settings):
            found = _child_json("memory_one", [who, str(elements), str(batch)], wall)
            results.put("memory", who, found, settings)
            print(f"memory   {who}: {found.get('failed', 'done')}", flush=True)


def _child_json(module: str, words: list[str], wall: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "result.json"
        status, last = run_child(module, [*words, str(place)], wall)
        if status == 0:
            found: dict[str, Any] = json.loads(place.read_text())
            return found
    return {"failed": f"status {status}: {last}"[:300]}


def parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny cases, small batches, short limits")
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose name matches")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--limit", type=float, default=15.0, help="CPU seconds of a peer's compilation")
    parser.add_argument("--batches", default="1,100,10000")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of each timing")
    parser.add_argument("--budget", type=float, default=5.0, help="CPU seconds after which a contender is done")
    parser.add_argument("--out", type=Path, default=None, help="the JSON file; the others are written beside it")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "circuits", help="compiled circuits are kept here")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    options = parser.parse_args(words)
    unknown = set(options.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"--parts: {', '.join(sorted(unknown))} unknown; choose from {', '.join(PARTS)}")
    return options


def main(words: list[str] | None = None) -> int:
    options = parse(words)
    parts = options.parts.split(",")
    default = "circuits_quick.json" if options.quick else "circuits.json"
    out = options.out or (ROOT / "runs" if options.quick else ROOT / "benchmarks" / "results") / default
    results = Results(out, options.fresh)
    options.work.mkdir(parents=True, exist_ok=True)
    everything = QUICK if options.quick else [name for name in makers() if name not in QUICK]
    names = [name for name in everything if re.search(options.only, name)]
    settings: dict[str, Any] = {"batches": options.batches, "budget": options.budget, "repeats": options.repeats}
    elements, batch, limit = 1_000_000, 256, options.limit
    if options.quick:
        settings = {"batches": "1,16", "budget": 0.1, "repeats": 1}
        elements, batch, limit = 2_000, 16, 3.0
    if "machine" in parts:
        results.put("machine", "this", machine(options.quick), {"quick": options.quick})
    if "compile" in parts:
        do_compile(names, results, options.work, limit)
    if "evaluate" in parts:
        timed = [name for name in names if options.quick or name in EVALUATED]
        do_evaluate(timed, results, options.work, settings, 3600.0)
    if "memory" in parts:
        do_memory(results, elements, batch, ("klay log",) if options.quick else ("klay log", "klay real"), 3600.0)
    if "report" in parts:
        write_report(results.content, out)
    wrong = disagreements(results.section("compile"))
    failed = [f"{name}: {r['failed']}" for name, r in results.section("evaluate").items() if "failed" in r]
    failed += [
        f"{key}: {r['failed']}"
        for key, r in results.section("compile").items()
        if "failed" in r and key.endswith("/neurosym") and not r["at_limit"]
    ]
    for line in [*wrong, *failed]:
        print(f"WRONG    {line}", flush=True)
    return 1 if wrong or failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, subprocess.SubprocessError) as stop:
        sys.exit(f"stopped ({type(stop).__name__}); finished measurements are kept")
