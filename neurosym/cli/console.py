"""What the commands print: one table or one JSON object on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

WIDTH = 80  # columns that every table fits into
DEVELOPER_WARNINGS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


def one_line(text: object) -> str:
    """``text`` without line breaks."""
    return " ".join(str(text).split())


def fail(message: object) -> None:
    """The one line that a user sees when something is wrong."""
    print(f"neurosym: error: {one_line(message)}", file=sys.stderr)


def note(message: object) -> None:
    """A remark beside the result."""
    print(f"neurosym: {one_line(message)}", file=sys.stderr)


def plain(value: Any) -> Any:
    """JSON values only: paths become text, numpy numbers Python ones, infinities and NaN text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


def emit_json(content: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    print(json.dumps(plain(content), indent=2, allow_nan=False))


def emit_table(rows: Sequence[Sequence[str]], *, header: Sequence[str] = (), title: str = "") -> None:
    """A table on stdout, at most :data:`WIDTH` columns wide; long cells are folded, never cut."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False)
    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        box=SIMPLE_HEAD if header else None,
        show_header=bool(header),
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for name in header or [""] * (len(rows[0]) if rows else 0):
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    with console.capture() as text:
        console.print(table, width=min(WIDTH, console.width) if console.is_terminal else WIDTH)
    lines = [line.rstrip() for line in text.get().splitlines()]
    print("\n".join(lines).strip("\n"))


def emit_files(files: Mapping[str, str]) -> None:
    """Where the results lie, one path a line and never folded, so that it can be copied."""
    for path in files.values():
        print(f"wrote {path}")


def show_progress(quiet: bool) -> bool:
    """Whether progress bars belong on stderr: only when a person looks at it."""
    return not quiet and sys.stderr.isatty()


@contextlib.contextmanager
def working(quiet: bool = False) -> Iterator[None]:
    """While work is done: stray output of libraries goes to stderr, and a warning is one line (none when quiet).

    Warnings that only a developer can act on (deprecations, advice of the training library) are left out.
    """

    def show(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        if not quiet and not issubclass(category, DEVELOPER_WARNINGS) and "lightning" not in filename:
            note(f"warning: {message}")

    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.showwarning = show
        yield


def number(value: float | None, digits: int = 2) -> str:
    """A number for a table; a dash where it was not measured."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share for a table, e.g. ``91.3 %``; a dash where it was not measured."""
    return "-" if value is None else f"{100 * value:.1f} %"
