"""Compile every case by every method, each in a process of its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.circuits.compile_one import METHODS
from benchmarks.circuits.suite import case

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """One thread everywhere, and this repository on the path."""
    single = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
    return {**os.environ, **single, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def run_child(module: str, words: list[str], seconds: float) -> tuple[int | None, str]:
    """Exit status (None: stopped by the clock) and the last line of its errors."""
    command = [sys.executable, "-m", f"benchmarks.circuits.{module}", *words]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False, env=environment(), cwd=ROOT)
    except subprocess.TimeoutExpired:
        return None, f"{seconds:.0f} s of wall time passed"
    return done.returncode, (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]


def methods_for(name: str) -> list[str]:
    """The methods that apply to a case."""
    return [method for method in METHODS if method != "pysdd tree vtree" or case(name).tree]


def compile_case(name: str, method: str, work: Path, seconds: float) -> dict[str, Any]:
    """What one compilation cost; with ``failed`` and the reason where a limit was met."""
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        status, last = run_child("compile_one", [name, method, scratch, str(seconds)], 6 * seconds + 120)
        place = Path(scratch) / "result.json"
        if status == 0 and place.exists():
            for made in Path(scratch).glob(f"{name}.*"):
                tag = method.replace(" ", "_") if made.suffix in (".sdd", ".vtree") else "circuit"
                made.replace(work / f"{name}.{tag}{made.suffix}")
            return {**json.loads(place.read_text()), "limit": seconds}
    if status == -24 or status is None:
        return {"failed": f"more than {seconds:g} CPU s" if status else last, "limit": seconds, "at_limit": True}
    reason = {-9: "killed", -11: "crashed", -6: "aborted"}.get(status, last)
    at_limit = "MemoryError" in last or "CompileLimit" in last or status == -6
    return {"failed": reason[:200], "limit": seconds, "at_limit": at_limit}


def disagreements(results: dict[str, dict[str, Any]]) -> list[str]:
    """Where two methods give different values for one case: log weighted counts to 1e-9, model counts exactly."""
    found = []
    by_case: dict[str, dict[str, dict[str, Any]]] = {}
    for key, result in results.items():
        name, method = key.split("/", 1)
        by_case.setdefault(name, {})[method] = result
    for name, given in by_case.items():
        values = {m: float(r["log_wmc"]) for m, r in given.items() if "log_wmc" in r}
        counts = {m: r["models"] for m, r in given.items() if "models" in r}
        first = next(iter(values.values()), 0.0)
        if any(not (v == first or math.isclose(v, first, rel_tol=1e-9, abs_tol=1e-9)) for v in values.values()):
            found.append(f"{name}: log weighted counts differ: {values}")
        if len(set(counts.values())) > 1:
            found.append(f"{name}: model counts differ: {counts}")
    return found
