"""Files written whole, and text files of numbered nodes read fast and strictly.

The formats here (``.nnf``, ``.sdd``, ``.vtree``) are lines of whole numbers behind an optional one-letter tag. A file
from outside may hold anything, so every byte is checked; and it may have millions of lines, so all of it happens in
array operations.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurosym.errors import InputError

_SPACE, _NEWLINE, _DIGIT, _MINUS, _TAG, _BAD = range(6)
_FOLLOWS = np.zeros((6, 6), dtype=bool)
"""Which class of byte may follow which: numbers are optional minus and digits, a tag is one letter."""
_FOLLOWS[[_SPACE, _NEWLINE], :_BAD] = True
_FOLLOWS[_DIGIT, [_SPACE, _NEWLINE, _DIGIT]] = True
_FOLLOWS[_MINUS, _DIGIT] = True
_FOLLOWS[_TAG, [_SPACE, _NEWLINE]] = True
_MOST_DIGITS = 15
"""Longer numbers are refused: no file needs them, and they would not fit 64 bits."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        os.chmod(name, 0o644)  # mkstemp makes the file private; results are meant to be shared
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Rows:
    """Lines of whole numbers.

    Attributes:
        path: the file, for messages.
        tag: uint8[R], the letter before the numbers, 0 where there is none.
        line: int64[R], line numbers from 1.
        offsets, values: CSR of the numbers, int64.
        headers, comments: (line, words) of the lines that start with the header's word or with ``c``.
    """

    path: Path
    tag: NDArray[np.uint8]
    line: NDArray[np.int64]
    offsets: NDArray[np.int64]
    values: NDArray[np.int64]
    headers: tuple[tuple[int, list[str]], ...]
    comments: tuple[tuple[int, list[str]], ...]

    def fail(self, line: int, why: str) -> InputError:
        """The error that names a line."""
        return InputError(f"{self.path}:{int(line)}: {why}")

    def check(self, wrong: NDArray[np.bool_], why: str) -> None:
        """Raise for the first row where ``wrong`` holds (one entry a row)."""
        if wrong.any():
            raise self.fail(int(self.line[np.flatnonzero(wrong)[0]]), why)

    def tagged(self, letters: str) -> NDArray[np.int64]:
        """Rows with one of the tags, ascending."""
        return np.flatnonzero(np.isin(self.tag, np.frombuffer(letters.encode(), dtype=np.uint8)))

    def column(self, rows: NDArray[np.int64], place: int) -> NDArray[np.int64]:
        """The number at ``place`` of each of the rows; they must have so many."""
        return self.values[self.offsets[rows] + place]

    def padded(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers at these places of ``values``; 0 at places outside."""
        inside = (places >= 0) & (places < self.values.size)
        return np.where(inside, np.append(self.values, 0)[np.where(inside, places, -1)], 0)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Numbers in each row."""
        return np.diff(self.offsets)

    def header(self, count: int, form: str) -> list[int] | None:
        """The numbers of the header line, None without one.

        Raises:
            InputError: several such lines, one that is not ``form``, or numbers before it.
        """
        if not self.headers:
            return None
        line, words = self.headers[min(1, len(self.headers) - 1)]
        numbers = [int(word) for word in words if word.isascii() and word.isdigit() and len(word) <= _MOST_DIGITS]
        if len(self.headers) != 1 or not len(numbers) == len(words) == count:
            raise self.fail(line, f"expected one line {form!r}")
        if self.line.size and self.line[0] < line:
            raise self.fail(int(self.line[0]), f"a node before the line {form!r}")
        return numbers


def read_rows(path: str | Path, tags: str, header: str) -> Rows:
    """Read a file of numbered nodes.

    Args:
        tags: letters that may stand before the numbers of a line.
        header: first word of the header line.

    Raises:
        InputError: unreadable, or a line of another form; names the line.
    """
    path = Path(path)
    try:
        body = path.read_bytes().replace(b"\r\n", b"\n") + b"\n"
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; give a text file") from None
    body, headers, comments = _take_words(body, header)
    return _numbers(path, body, tags, tuple(headers), tuple(comments))


def _take_words(body: bytes, header: str) -> tuple[bytes, list[tuple[int, list[str]]], list[tuple[int, list[str]]]]:
    """Blank the lines of words (so that line numbers stay), and return them."""
    found: dict[str, list[tuple[int, list[str]]]] = {header: [], "c": []}
    line, seen = 1, 0
    pattern = re.compile(rb"^[ \t]*(c|" + header.encode() + rb")(?:[ \t][^\n]*)?$", re.MULTILINE)
    for match in pattern.finditer(body):
        line += body.count(b"\n", seen, match.start())
        seen = match.start()
        first, *words = match.group().decode("utf-8", "replace").split()
        found[first].append((line, words))
    if seen or line > 1 or found[header] or found["c"]:
        body = pattern.sub(b"", body)
    return body, found[header], found["c"]


def _numbers(
    path: Path,
    body: bytes,
    tags: str,
    headers: tuple[tuple[int, list[str]], ...],
    comments: tuple[tuple[int, list[str]], ...],
) -> Rows:
    classes = np.full(256, _BAD, dtype=np.uint8)
    classes[[ord(" "), ord("\t"), ord("\n"), ord("-")]] = _SPACE, _SPACE, _NEWLINE, _MINUS
    classes[ord("0") : ord("9") + 1] = _DIGIT
    letters = np.frombuffer(tags.encode(), dtype=np.uint8)
    classes[letters] = _TAG
    text = np.frombuffer(body, dtype=np.uint8)
    kind = classes[text]
    before = np.empty_like(kind)
    before[0], before[1:] = _NEWLINE, kind[:-1]

    def fail(place: int) -> InputError:
        start = body.rfind(b"\n", 0, place) + 1
        shown = body[start : body.index(b"\n", place)][:60].decode("utf-8", "replace")
        number = body.count(b"\n", 0, place) + 1
        what = f"unknown line {shown!r}" if kind[start] in (_TAG, _BAD) else f"{shown!r} should be whole numbers"
        return InputError(f"{path}:{number}: {what}; nodes are {', '.join(tags)} and whole numbers")

    wrong = ~_FOLLOWS[before, kind]
    if wrong.any():
        raise fail(int(wrong.argmax()))
    inside, was_inside = kind >= _DIGIT, before >= _DIGIT
    starts = np.flatnonzero(inside & ~was_inside)
    lengths = np.flatnonzero(~inside & was_inside) - starts  # the text ends with a newline
    if starts.size and lengths.max() > _MOST_DIGITS:
        raise fail(int(starts[lengths.argmax()]))
    line = np.cumsum(kind == _NEWLINE, dtype=np.int32)[starts].astype(np.int64) + 1
    first = np.ones(starts.size, dtype=bool)
    first[1:] = line[1:] != line[:-1]
    tagged = kind[starts] == _TAG
    if (tagged & ~first).any():
        raise fail(int(starts[(tagged & ~first).argmax()]))
    row = np.cumsum(first) - 1
    counts = np.bincount(row[~tagged], minlength=int(first.sum()))
    values = np.zeros(0, dtype=np.int64)
    if counts.any():
        values = np.fromstring(body.translate(_without(letters)), dtype=np.int64, sep=" ")
    assert values.size == counts.sum()
    return Rows(
        path=path,
        tag=np.where(tagged, text[starts], np.uint8(0))[first],
        line=line[first],
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        values=values,
        headers=headers,
        comments=comments,
    )


def _without(letters: NDArray[np.uint8]) -> bytes:
    """Translation table that turns the letters into spaces."""
    table = np.arange(256, dtype=np.uint8)
    table[letters] = ord(" ")
    return table.tobytes()
