"""``report.html``: one file, no network, readable on a phone and on a desk.

Figures are matplotlib SVGs inside the file. Colours are those of Okabe and Ito (2008), which colour-blind readers tell
apart; every series also has its own marker or line style, and every figure an alternative text with its numbers.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurosym.certify import exact
from neurosym.certify.guarantee import percent
from neurosym.certify.methods import CATALOGUE
from neurosym.certify.schema import Certificate, CurvePoint, Real, RuleUse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from neurosym.logic.knowledge import KnowledgeBase

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"  # Okabe and Ito (2008)
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Example:
    """One test image for the report: uint8 ``[H, W, 3]``, its true label, and its sets as label names."""

    image: np.ndarray
    label: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True)
class ReportExtras:
    """What the report shows and the certificate does not hold."""

    title: str = "Certified prediction sets"
    examples: Sequence[Example] = field(default=())


def rule_use(kb: KnowledgeBase, worlds: np.ndarray) -> list[RuleUse]:
    """How often each rule's premise held and how often the rule was broken.

    Args:
        kb: the rules; worlds: bool ``[n, V]``, what the sensors say (each predicate thresholded at 1/2).
    """
    from neurosym.logic.formula import Implies
    from neurosym.logic.semantics import evaluate

    world = {name: worlds[:, i] for i, name in enumerate(kb.predicates)}
    n, found = int(worlds.shape[0]), []
    for rule in kb.rules:
        premise = rule.formula.left if isinstance(rule.formula, Implies) else None
        applied = n if premise is None else int(np.broadcast_to(evaluate(premise, world), (n,)).sum())
        broken = n - int(np.broadcast_to(evaluate(rule.formula, world), (n,)).sum())
        weight = "hard" if rule.hard else f"{rule.weight:g}"
        found.append(RuleUse(rule=rule.text, weight=weight, applied=applied, violated=broken, of=n))
    return found


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _figure(width: float = 4.4, height: float = 3.0) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure) -> str:
    import matplotlib

    stream = io.BytesIO()
    # a fixed salt and no date: the same run gives the same bytes
    with matplotlib.rc_context({"svg.hashsalt": "neurosym", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=False)
    return _uri(stream.getvalue(), "image/svg+xml")


def _number(value: Real | None) -> str:
    return "not measured" if value is None else f"{value.value:.3f}"


def _curve_figure(
    points: Sequence[CurvePoint], series: Sequence[tuple[str, str, str, str]], label: str, level: float | None
) -> dict[str, str] | None:
    """One panel against the radius; ``series`` is (field, name, colour, marker)."""
    figure, axes = _figure()
    told = []
    for field_name, name, colour, marker in series:
        pairs = [
            (float(exact.from_text(point.radius)), getattr(point, field_name).value)
            for point in points
            if getattr(point, field_name) is not None
        ]
        if not pairs:
            continue
        style = "--" if field_name == "certified" else "-"
        axes.plot(*zip(*pairs, strict=True), style, color=colour, marker=marker, markersize=6, label=name)
        told.append(name + ": " + ", ".join(f"{value:.3f} at {radius:g}" for radius, value in pairs))
    if not told:
        return None
    if level is not None:
        axes.axhline(level, color=GREY, linewidth=1, linestyle=":")
        axes.annotate(f"promised {level:g}", (1, level), xycoords=("axes fraction", "data"), ha="right",
                      va="bottom", fontsize=9, color=GREY)  # fmt: skip
        axes.set_ylim(top=1.02)
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("attack radius (L2)")
    axes.set_ylabel(label)
    if len(told) > 1:
        axes.legend(frameon=False, fontsize=9, loc="lower left")
    return {"src": _svg(figure), "alt": f"{label} against radius. " + "; ".join(told), "title": label}


def _class_figure(certificate: Certificate) -> dict[str, str] | None:
    rows = [row for row in certificate.metrics.per_class if row.n and row.interval is not None]
    if not rows:
        return None
    figure, axes = _figure(height=1.1 + 0.27 * len(rows))
    for place, row in enumerate(reversed(rows)):
        assert row.interval is not None
        axes.plot([row.interval.lower.value, row.interval.upper.value], [place, place], color=BLUE, linewidth=2)
        axes.plot(row.covered / row.n, place, "o", color=BLUE, markersize=6)
    level = float(1 - exact.from_text(certificate.alpha))
    axes.axvline(level, color=ORANGE, linestyle="--", linewidth=1.2)
    axes.annotate(f"promised on average {level:g}", (level, 1), xycoords=("data", "axes fraction"), ha="right",
                  va="bottom", fontsize=9, color=ORANGE)  # fmt: skip
    axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
    axes.set_xlim(right=1.01)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("coverage (bars: 95 % intervals)")
    told = ", ".join(f"{row.name} {row.covered} of {row.n}" for row in rows)
    return {"src": _svg(figure), "alt": f"Coverage of each class: {told}", "title": "Coverage of each class"}


def _size_figure(sets: np.ndarray) -> dict[str, str]:
    counts = np.bincount(sets.sum(axis=1), minlength=sets.shape[1] + 1)
    last = int(np.flatnonzero(counts)[-1]) if counts.any() else 0
    shown = counts[: max(last, 3) + 1]
    figure, axes = _figure()
    bars = axes.bar(range(len(shown)), shown, color=BLUE)
    axes.bar_label(bars, [str(count) if count else "" for count in shown], fontsize=9)
    axes.set_xlabel("labels in the set")
    axes.set_ylabel("images")
    axes.set_xticks(range(0, len(shown), max(1, len(shown) // 12)))
    told = ", ".join(f"{count} with {size}" for size, count in enumerate(shown) if count)
    return {"src": _svg(figure), "alt": f"Images by number of labels in their set: {told}", "title": "Set sizes"}


def _picture(image: np.ndarray) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image, dtype=np.uint8)).save(stream, format="PNG", optimize=True)
    return _uri(stream.getvalue(), "image/png")


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested records as (dotted name, text), for tables."""
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in _flat(item, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, list):
        text = ", ".join(str(item) for item in value[:12]) + (f", ... ({len(value)})" if len(value) > 12 else "")
        return [(prefix, text)]
    return [(prefix, str(value))]


def _derived(certificate: Certificate) -> list[tuple[str, str]]:
    rows = []
    for name, value in certificate.derived.items():
        if isinstance(value, list):
            text = f"table of {len(value)} entries"
        else:
            text = value.decimal if isinstance(value, Real) else str(value)
        rows.append((name.replace("_", " "), text))
    return rows


def _tiles(certificate: Certificate) -> list[tuple[str, str, str]]:
    """Headline numbers: (value, what, small print)."""
    metrics = certificate.metrics
    tiles = [(percent(1 - exact.from_text(certificate.alpha)), "promised coverage", "averaged over images")]
    if metrics.coverage is not None and metrics.interval is not None:
        low, high = metrics.interval.lower.value, metrics.interval.upper.value
        detail = f"{metrics.covered} of {metrics.n}; 95 % interval {100 * low:.1f} to {100 * high:.1f} %"
        tiles.append((f"{100 * metrics.coverage.value:.1f} %", "measured coverage", detail))
    tiles.append((f"{metrics.mean_size.value:.2f}", "labels in a set, on average", f"of {len(certificate.classes)}"))
    if metrics.certified is not None:
        certified = metrics.certified
        detail = f"un-enlarged set, {certified.successes} of {certified.points} points, delta {certified.delta}"
        tiles.append((f"{100 * certified.lower.value:.1f} %", "certified coverage", detail))
    return tiles


def render_report(
    certificate: Certificate, arrays: Mapping[str, np.ndarray], extras: ReportExtras | None = None
) -> str:
    """The HTML of the report.

    Args:
        certificate: what was certified; arrays: those of ``sets.npz``; extras: title and example images.
    """
    import jinja2

    extras = extras or ReportExtras()
    level = float(1 - exact.from_text(certificate.alpha))
    curve = sorted(certificate.metrics.curve, key=lambda point: exact.from_text(point.radius))
    coverage = (("coverage", "sets as certified", BLUE, "o"), ("certified", "un-enlarged, certified", ORANGE, "s"))
    size = (("mean_size", "mean set size", GREEN, "^"),)
    panels = [
        _curve_figure(curve, coverage, "coverage", level),
        _curve_figure(curve, size, "labels in a set", None),
        _size_figure(arrays["sets"]),
    ]
    examples = [
        {
            "src": _picture(item.image),
            "label": item.label,
            "before": item.before,
            "after": item.after,
            "alt": f"Test image with true label {item.label}",
        }
        for item in extras.examples
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(
        certificate=certificate,
        title=extras.title,
        method=CATALOGUE[certificate.method].title if certificate.method in CATALOGUE else certificate.method,
        tiles=_tiles(certificate),
        panels=[panel for panel in panels if panel is not None],
        class_panel=_class_figure(certificate),
        curve=[(p.radius, _number(p.coverage), _number(p.mean_size), _number(p.certified)) for p in curve],
        examples=examples,
        derived=_derived(certificate),
        tuning=_flat(certificate.tuning),
        provenance=_flat(certificate.provenance),
        reasoning=certificate.reasoning,
        sha=certificate.digests.certificate,
    )
