"""Compilers in processes of their own: run under a time limit, and killed when nobody waits for them any more."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

POLL_SECONDS = 0.05
"""How often a running compiler looks whether it should stop."""

LONGEST_WAIT = 3600.0
"""Seconds that one wait may take: the operating system takes no unlimited ones."""


@dataclass(frozen=True)
class Finished:
    """How a worker ended.

    Attributes:
        status: exit status; None when it was killed at the time limit, negative when a signal ended it.
        stopped: it was killed because ``stop`` was set.
    """

    status: int | None
    stdout: bytes
    stderr: bytes
    seconds: float
    stopped: bool = False


def run_worker(
    script: str, arguments: Sequence[str], max_seconds: float, stop: threading.Event | None = None
) -> Finished:
    """Run a Python file with the module path of this process; it is dead when this returns or raises.

    The interpreter starts without site packages of its own, in the time that the worker's imports take.
    """
    start = time.monotonic()
    if max_seconds <= 0 or (stop is not None and stop.is_set()):
        return Finished(None, b"", b"", 0.0, stopped=max_seconds > 0)
    command = [sys.executable, "-P", "-S", script, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in sys.path if place)}
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment)
    late = stopped = False
    try:
        while True:
            left = max_seconds - (time.monotonic() - start)
            late, stopped = left <= 0, stop is not None and stop.is_set()
            if late or stopped:
                child.kill()
                out, error = child.communicate()
                break
            try:
                out, error = child.communicate(timeout=min(left, LONGEST_WAIT if stop is None else POLL_SECONDS))
                break
            except subprocess.TimeoutExpired:
                continue
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    status = None if late or stopped else child.returncode
    return Finished(status, out, error, time.monotonic() - start, stopped)
