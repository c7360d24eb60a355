"""Ways of ending: help, version, usage errors, bad input, bugs, interrupts; and how light the start is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from neurosym.cli import options
from neurosym.errors import InputError

COMMANDS = ("certify", "predict", "verify", "train", "compile", "data")
HEAVY = ("torch", "numpy", "rich", "pydantic", "scipy", "matplotlib", "torchvision", "pysdd", "lightning", "jinja2")


def test_version(run: Any) -> None:
    from neurosym import __version__

    assert run("--version") == (0, f"neurosym {__version__}\n", "")


def test_no_command_shows_the_help(run: Any) -> None:
    ran = run()
    assert ran.code == 0
    assert all(name in ran.out for name in COMMANDS)


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS), ("data", "gtsrb"), ("data", "check")])
def test_help_has_examples_and_fits(run: Any, words: tuple[str, ...]) -> None:
    ran = run(*words, "--help")
    assert ran.code == 0
    assert "Examples:" in ran.out
    assert f"neurosym {' '.join(words)}".strip() in ran.out
    assert max(len(line) for line in ran.out.splitlines()) <= 80
    assert "\b" not in ran.out
    cut = [line for line in ran.out.splitlines() if line.endswith("...") and "Usage:" not in line]
    assert not cut  # no sentence of the list of commands


def test_starting_imports_nothing_heavy() -> None:
    code = (
        "import sys; from neurosym.cli.app import main; status = main(['--help']); "
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr); raise SystemExit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("certfy",), ("certfy", "certify")),
        (("certify", "--alhpa", "0.1"), ("--alhpa", "--alpha")),
        (("certify", "--seed", "x"), ("--seed", "integer")),
        (("certify", "--alpha"), ("--alpha", "argument")),
        (("verify",), ("CERTIFICATE",)),
        (("train", "x.yaml"), ("--out",)),
        (("verify", "a", "b"), ("b",)),
        (("data", "lst"), ("lst", "list")),
    ],
)
def test_usage_errors_are_two_lines(run: Any, words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    ran = run(*words)
    assert ran.code == 2
    assert ran.out == ""
    lines = ran.err.strip().splitlines()
    assert len(lines) <= 2
    assert lines[0].startswith("neurosym: error: ")
    assert all(part in ran.err for part in parts)
    assert "--help" in lines[-1]


@pytest.mark.parametrize("place", [0, 1, 4])
def test_bug_is_one_line_and_debug_shows_the_traceback(run: Any, pipeline: Any, tmp_path: Path, place: int) -> None:
    pipeline.error = RuntimeError("tensors\ncollide")
    words = ["certify", "--demo", "--out", str(tmp_path / "o")]
    ran = run(*words)
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.splitlines()[-1] == (
        "neurosym: error: RuntimeError: tensors collide; this is a bug; run again with --debug"
    )
    words.insert(place, "--debug")
    ran = run(*words)
    assert ran.code == 3
    assert "Traceback" in ran.err
    assert "_called" in ran.err


def test_debug_shows_where_bad_input_was_found(run: Any, pipeline: Any, tmp_path: Path) -> None:
    pipeline.error = InputError("file x: field y")
    ran = run("certify", "--demo", "--out", tmp_path / "o", "--debug")
    assert ran.code == 2
    assert "Traceback" in ran.err
    assert ran.err.splitlines()[-1] == "neurosym: error: file x: field y"


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (OSError(28, "No space left on device", "/x/y"), "/x/y: No space left on device"),
        (MemoryError(), "out of memory"),
        (InputError("two\nlines"), "two lines"),
    ],
)
def test_trouble_outside_is_bad_input(
    run: Any, pipeline: Any, refused: Any, tmp_path: Path, error: Exception, part: str
) -> None:
    pipeline.error = error
    ran = run("certify", "--demo", "--out", tmp_path / "o")
    refused(ran._replace(err=ran.err.replace("a library talks\n", "")), part)


def test_interrupt(run: Any, pipeline: Any, tmp_path: Path) -> None:
    pipeline.error = KeyboardInterrupt()
    ran = run("certify", "--demo", "--out", tmp_path / "o")
    assert (ran.code, ran.out) == (130, "")
    assert ran.err.splitlines()[-1] == "interrupted; continue with --resume"
    (tmp_path / "c.json").write_text("{}")
    (tmp_path / "e.npz").write_text("")
    ran = run("predict", tmp_path / "c.json", "--evidence", tmp_path / "e.npz")
    assert ran.code == 130
    assert ran.err.splitlines()[-1] == "interrupted; nothing was written"


def test_an_interrupt_that_a_library_turned_into_an_exit(run: Any, pipeline: Any, tmp_path: Path) -> None:
    stop = SystemExit(1)
    stop.__context__ = KeyboardInterrupt()
    pipeline.error = stop
    assert run("certify", "--demo", "--out", tmp_path / "o").code == 130


SLEEPER = """
import sys, time, types
import neurosym.certify
fake = types.ModuleType("neurosym.certify.pipeline")
fake.demo_config = lambda: __import__("neurosym.certify.config").certify.config.CertifyConfig(
    model="m", data={"name": "demo"})
def certify_config(config, out, **_):
    print("ready", file=sys.stderr, flush=True)
    time.sleep(60)
fake.certify_config = certify_config
sys.modules[fake.__name__] = neurosym.certify.pipeline = fake
from neurosym.cli.app import main
sys.exit(main(["certify", "--demo", "--out", sys.argv[1]]))
"""


def test_ctrl_c(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(tmp_path / "o")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "interrupted; continue with --resume\n")
    assert not (tmp_path / "o").exists()


def test_choices_are_those_of_the_configuration() -> None:
    from typing import get_args

    from neurosym.certify.config import CertifyConfig

    for name, known in (
        ("score", options.SCORES),
        ("circuit", options.CIRCUITS),
        ("bound", options.BOUNDS),
        ("device", options.DEVICES),
    ):
        assert get_args(CertifyConfig.model_fields[name].annotation) == known


def test_json_of_odd_values(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    from neurosym.cli.console import emit_json

    emit_json({"a": float("inf"), "b": np.float64(0.5), "c": np.arange(2), "d": Path("x"), "e": (None, True)})
    content = json.loads(capsys.readouterr().out)
    assert content == {"a": "inf", "b": 0.5, "c": [0, 1], "d": "x", "e": [None, True]}
