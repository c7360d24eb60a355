"""The DIMACS file format for clauses (Second DIMACS Implementation Challenge, 1993), read strictly.

::

    c var 1 stop
    c var 2 octagon
    p cnf 2 1
    -1 2 0

Comment lines ``c var NUMBER NAME`` give the names of the first variables.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from neurosym.errors import InputError
from neurosym.logic.cnf import Clause, Cnf

_INTEGER = re.compile(r"-?[0-9]{1,9}")
_HEADER = re.compile(r"p\s+cnf\s+([0-9]{1,9})\s+([0-9]{1,9})\s*")
_NAME = re.compile(r"c var ([1-9][0-9]{0,8}) (\S+)")


def to_dimacs(cnf: Cnf) -> str:
    """Text of the clauses, names first."""
    lines = [f"c var {i + 1} {name}" for i, name in enumerate(cnf.names)]
    lines.append(f"p cnf {cnf.num_variables} {len(cnf.clauses)}")
    lines += [" ".join(map(str, (*clause, 0))) for clause in cnf.clauses]
    return "\n".join(lines) + "\n"


def write_dimacs(cnf: Cnf, path: str | Path) -> None:
    """Write atomically: a reader sees the old file or the whole new one."""
    target = Path(path)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        scratch.write_text(to_dimacs(cnf), encoding="utf-8")
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)


def read_dimacs(path: str | Path) -> Cnf:
    """Read a file; see :func:`from_dimacs`."""
    name = os.fspath(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{name}: cannot read: {os.strerror(error.errno or 0)}") from None
    except UnicodeDecodeError:
        raise InputError(f"{name}: not a text file; DIMACS files are plain text") from None
    return from_dimacs(text, name)


def from_dimacs(text: str, name: str = "<dimacs>") -> Cnf:
    """Parse clauses. A clause ends with 0 and may span lines; comments may stand on any line of their own.

    Raises:
        InputError: ``name:line: ...`` for a missing or second header, a word that is not an integer, a literal
            outside the declared variables, an unfinished clause, or another number of clauses than declared.
    """
    reader = _Reader(name)
    for number, line in enumerate(text.splitlines(), start=1):
        reader.feed(line, number)
    return reader.finish()


class _Reader:
    def __init__(self, name: str) -> None:
        self.name = name
        self.line = 1
        self.header: tuple[int, int] | None = None
        self.clauses: list[Clause] = []
        self.open: list[int] = []
        self.opened = 0
        self.names: dict[int, str] = {}

    def error(self, message: str, line: int | None = None) -> InputError:
        return InputError(f"{self.name}:{line or self.line}: {message}")

    def feed(self, line: str, number: int) -> None:
        self.line = number
        text = line.strip()
        if not text or text == "c" or text.startswith(("c ", "c\t")):
            self._comment(text)
        elif text.startswith("p"):
            self._header(text)
        elif text.startswith("%"):
            raise self.error("unexpected '%'; remove it and everything after it")
        else:
            for word in text.split():
                self._word(word)

    def _comment(self, text: str) -> None:
        match = _NAME.fullmatch(text)
        if match is None:
            return
        index = int(match[1])
        if index in self.names:
            raise self.error(f"variable {index} is named a second time")
        self.names[index] = match[2]

    def _header(self, text: str) -> None:
        if self.header is not None:
            raise self.error("a second 'p' line; keep one")
        match = _HEADER.fullmatch(text)
        if match is None:
            raise self.error(f"bad header {text[:40]!r}; expected 'p cnf VARIABLES CLAUSES'")
        self.header = (int(match[1]), int(match[2]))

    def _word(self, word: str) -> None:
        if self.header is None:
            raise self.error("a clause before the header; expected 'p cnf VARIABLES CLAUSES' first")
        if _INTEGER.fullmatch(word) is None:
            raise self.error(f"{word[:40]!r} is not an integer; expected a literal or 0")
        literal = int(word)
        if abs(literal) > self.header[0]:
            raise self.error(f"literal {literal} is outside the declared variables 1..{self.header[0]}")
        if literal == 0:
            self.clauses.append(tuple(self.open))
            self.open = []
            if len(self.clauses) > self.header[1]:
                raise self.error(f"more clauses than the {self.header[1]} declared in the header")
            return
        if not self.open:
            self.opened = self.line
        self.open.append(literal)

    def finish(self) -> Cnf:
        if self.header is None:
            raise self.error("no header; expected 'p cnf VARIABLES CLAUSES'")
        if self.open:
            raise self.error("the clause that begins here does not end with 0", self.opened)
        if len(self.clauses) != self.header[1]:
            raise self.error(f"the header declares {self.header[1]} clauses, but there are {len(self.clauses)}")
        if sorted(self.names) != list(range(1, len(self.names) + 1)) or len(self.names) > self.header[0]:
            raise self.error("the 'c var' lines must name the variables 1, 2, ... without gaps")
        names = tuple(self.names[i + 1] for i in range(len(self.names)))
        return Cnf(self.header[0], tuple(self.clauses), names)
