"""The report: one file without network, readable names, alternative texts, escaped content."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest

from neurosym.certify.certificate import build_certificate, run_arrays, write_run
from neurosym.certify.report import Example, ReportExtras, render_report, rule_use
from neurosym.certify.schema import CurvePoint, Real
from neurosym.logic import KnowledgeBase

SHARED = ("observation", "sets", "test_labels")


class Page(HTMLParser):
    """Collects tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def html() -> str:
    run = builders.colep_run("none", n=40, n_test=20)
    curve = [
        CurvePoint(radius="0.125", mean_size=Real.of(2.5), coverage=Real.of(1.0), certified=Real.of(0.25)),
        CurvePoint(radius="0", mean_size=Real.of(1.25), coverage=Real.of(0.9)),
    ]
    shared: dict[str, Any] = {key: run[key] for key in SHARED}
    certificate = build_certificate(
        run["calibrated"], classes=run["classes"], predicates=run["predicates"], curve=curve,
        notes=["<script>alert(1)</script>"], provenance={"model": "a&b"}, **shared,
    )  # fmt: skip
    picture = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3)
    extras = ReportExtras("Signs <1>", [Example(picture, "stop", ("stop", "yield"), ())])
    return render_report(certificate, run_arrays(*shared.values()), extras)


def test_no_network_and_no_script(html: str) -> None:
    page = Page(html)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object", "embed")]
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(" not in html
    assert "@import" not in html


def test_every_picture_has_an_alternative_text(html: str) -> None:
    pictures = [attributes for tag, attributes in Page(html).tags if tag == "img"]
    assert len(pictures) == 5
    assert all(len(item["alt"] or "") > 10 for item in pictures)
    assert any("2.500 at 0.125" in (item["alt"] or "") for item in pictures)


def test_content(html: str) -> None:
    text = re.sub(r"\s+", " ", Page(html).text)
    assert "With probability at least 70 %, the set given for a new image contains its true label" in text
    for needed in ("exchangeable", "drawn after the attack", "attacked votes", "summing exactly to alpha = 0.3",
                   "Signs <1>", "<script>alert(1)</script>", "a&b", "empty", "not measured"):  # fmt: skip
        assert needed in text
    assert '<meta name="viewport" content="width=device-width' in html
    assert html.startswith("<!doctype html>")


def test_same_run_same_bytes(tmp_path: Path) -> None:
    run = builders.score_run("rcp1")
    path = builders.write(tmp_path, run, report=True)
    from neurosym.certify.certificate import load_certificate

    certificate = load_certificate(path)
    first = {item.name: item.read_bytes() for item in tmp_path.iterdir()}
    write_run(tmp_path, certificate, *(run[key] for key in SHARED))
    second = {item.name: item.read_bytes() for item in tmp_path.iterdir()}
    assert first["certificate.json"] == second["certificate.json"]
    assert first["report.html"] == second["report.html"]


def test_rule_use_counts() -> None:
    kb = KnowledgeBase.from_text(
        "classes: [a, b]\nconcepts: [x]\nrules: [a -> x, {rule: a | b, weight: .inf}, {rule: b -> ~x, weight: 2}]\n"
    )
    worlds = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0]], dtype=bool)
    found = [(use.rule, use.weight, use.applied, use.violated, use.of) for use in rule_use(kb, worlds)]
    assert found == [("a -> x", "1.5", 2, 1, 4), ("a | b", "hard", 4, 1, 4), ("b -> ~x", "2", 1, 1, 4)]


@pytest.mark.parametrize("labelled", [True, False])
def test_sparse_runs_render(labelled: bool) -> None:
    run = builders.score_run("vanilla", n=3, n_test=2)
    labels = run["test_labels"] if labelled else None
    certificate = build_certificate(
        run["calibrated"], classes=run["classes"], predicates=run["predicates"], observation=run["observation"],
        sets=run["sets"], test_labels=labels,
    )  # fmt: skip
    html = render_report(certificate, run_arrays(run["observation"], run["sets"], labels))
    assert "every set holds every label" in html
