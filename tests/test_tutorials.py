"""The tutorials run as they stand, block by block in one namespace, and print what they say they print."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).resolve().parents[1] / "docs" / "tutorials"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILES = sorted(TUTORIALS.glob("*.md"))


def blocks(path: Path) -> list[tuple[str, str]]:
    """(language, text) of each fenced block."""
    return FENCE.findall(path.read_text())


def test_there_are_tutorials() -> None:
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_code_runs_and_prints_what_is_shown(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks(path)
    assert path.read_text().count("```") == 2 * len(found), "a fence that is not closed, or without a language"
    namespace: dict[str, object] = {}
    for number, (language, text) in enumerate(found):
        if language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(text, f"{path.name}, block {number}", "exec"), namespace)
        shown = found[number + 1][1] if number + 1 < len(found) and found[number + 1][0] == "text" else ""
        assert printed.getvalue() == shown, f"block {number}"


def test_rules_to_layer_keeps_its_title() -> None:
    language, text = blocks(TUTORIALS / "rules_to_layer.md")[0]
    assert language == "python"
    assert len([line for line in text.splitlines() if line.strip()]) <= 10
