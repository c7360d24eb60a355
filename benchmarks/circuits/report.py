"""The tables and plots of the circuits benchmark, from its JSON file alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

METHODS = ("neurosym", "pysdd default", "pysdd static", "pysdd tree vtree", "d4")
COLOURS = {
    "neurosym": "#1f6fb4",
    "pysdd default": "#c77c11",
    "pysdd static": "#e3ac5d",
    "pysdd tree vtree": "#f2d3a2",
    "d4": "#5d9e5b",
}
OPERATIONS = {"forward": "log count", "backward": "log count and gradient", "mpe": "best world"}


def number(seconds: float) -> str:
    """Milliseconds with three digits."""
    return f"{seconds * 1e3:.3g}"


def best(times: dict[str, Any], words: tuple[str, ...], without: str = "\0") -> tuple[str, float] | None:
    """Fastest contender whose name starts with one of ``words`` and does not contain ``without``."""
    found = [(t["seconds"], name) for name, t in times.items() if name.startswith(words) and without not in name]
    return (min(found)[1], min(found)[0]) if found else None


def compile_table(results: dict[str, Any]) -> list[str]:
    """CPU seconds and size by case and method."""
    lines = [
        "| case | " + " | ".join(METHODS) + " | compiler chosen | nodes / edges / depth |",
        "|---" * (len(METHODS) + 3) + "|",
    ]
    for name in dict.fromkeys(key.split("/")[0] for key in results):
        cells = []
        for method in METHODS:
            found = results.get(f"{name}/{method}")
            if found is None:
                cells.append("-")
            elif "failed" in found:
                cells.append(f"{found['failed']}")
            else:
                size = f" ({found['elements']})" if "elements" in found else ""
                cells.append(f"{found['seconds']:.3f}{size}")
        own = results.get(f"{name}/neurosym", {})
        shape = f"{own['nodes']} / {own['edges']} / {own['depth']}" if "nodes" in own else "-"
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {own.get('compiler', '-')} | {shape} |")
    return lines


def evaluate_tables(results: dict[str, Any], bandwidth: float | None) -> list[str]:
    """For every operation, precision and batch: ours and the peers, and the ratios."""
    lines: list[str] = []
    keys = list(dict.fromkeys(key for found in results.values() for key in found.get("times", {})))
    for key in keys:
        dtype, operation, batch = key.split("/")
        lines += [
            "",
            f"### {OPERATIONS[operation]}, {batch} rows, {dtype}",
            "",
            "| case | ours, same circuit | ours, own circuit | KLay | KLay on our circuit | PySDD loop "
            "| KLay / ours, same circuit | KLay / ours, own circuit | KLay / ours, both on our circuit | PySDD / ours "
            "| share of the copy bound |",
            "|" + "---|" * 11,
        ]
        for name, found in results.items():
            times = found.get("times", {}).get(key)
            if times:
                lines.append(_row(name, found, times, key, bandwidth))
    return lines


def _row(name: str, found: dict[str, Any], times: dict[str, Any], key: str, bandwidth: float | None) -> str:
    dtype, operation, batch = key.split("/")
    # what a user gets without choosing: our automatic engine; of the peer's semirings the faster one
    same, own = best(times, ("neurosym auto",)), best(times, ("neurosym own circuit, auto",))
    klay, klay_own = best(times, ("klay",), "own circuit"), best(times, ("klay own circuit",))
    loop = best(times, ("pysdd",))

    def cell(entry: tuple[str, float] | None) -> str:
        if entry is None:
            return "-"
        scaled = "*" if times[entry[0]]["rows_timed"] < int(batch) else ""
        which = f" ({entry[0].split()[-1]})" if entry[0].startswith("klay") else ""
        return f"{number(entry[1])}{scaled}{which}"

    def ratio(peer: tuple[str, float] | None, ours: tuple[str, float] | None) -> str:
        return "-" if peer is None or ours is None else f"{peer[1] / ours[1]:.1f}"

    share = "-"
    if operation == "forward" and same is not None and bandwidth is not None and int(batch) >= 1000:
        size = 4 if dtype == "float32" else 8
        share = f"{found['circuit']['traffic'] * size * int(batch) / bandwidth / same[1]:.2f}"
    cells = [cell(entry) for entry in (same, own, klay, klay_own, loop)]
    cells += [ratio(klay, same), ratio(klay, own), ratio(klay_own, own), ratio(loop, own), share]
    return f"| {name} | " + " | ".join(cells) + " |"


def engine_table(results: dict[str, Any], key: str) -> list[str]:
    """Every contender of one setting, case by case, in milliseconds."""
    names = list(dict.fromkeys(name for found in results.values() for name in found.get("times", {}).get(key, {})))
    lines = ["| contender | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
    for name in names:
        cells = []
        for found in results.values():
            timed = found.get("times", {}).get(key, {}).get(name)
            cells.append("-" if timed is None else number(timed["seconds"]))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def memory_table(results: dict[str, Any]) -> list[str]:
    lines = ["| | peak GiB | of it before evaluation | CPU seconds | building |", "|---|---|---|---|---|"]
    for who, found in results.items():
        if "failed" in found:
            lines.append(f"| {who} | {found['failed']} | - | - | - |")
        else:
            sizes = [found[word] / 2**30 for word in ("peak", "before")]
            lines.append(f"| {who} | {sizes[0]:.2f} | {sizes[1]:.2f} | {found['seconds']:.2f} | {found['build']:.2f} |")
    return lines


def faults(results: dict[str, Any]) -> list[str]:
    """Peers that gave wrong values and were not timed."""
    return [
        f"- {name}, {dtype}: {who}: {error}"
        for name, found in results.items()
        for dtype, errors in found.get("errors", {}).items()
        for who, error in errors.items()
        if isinstance(error, str)
    ]


def write_report(content: dict[str, Any], out: Path) -> None:
    """Write ``.md`` and ``.png`` files beside the JSON file."""
    box = content.get("machine", {}).get("this", {})
    compiled, timed = content.get("compile", {}), content.get("evaluate", {})
    memory = content.get("memory", {})
    bandwidth = box.get("copy_bytes_per_second")
    lines = ["# Circuits: compile, evaluate, memory", "", *_preface(box, timed)]
    if compiled:
        lines += ["", "## Compile: CPU seconds (SDD elements)", "", *compile_table(compiled)]
        plot_compile(compiled, out.with_name(f"{out.stem}_compile.png"))
        lines += ["", f"![compile times]({out.stem}_compile.png)"]
    if timed:
        lines += ["", "## Evaluate: CPU milliseconds for the whole batch", *evaluate_tables(timed, bandwidth)]
        for key in [key for key in _keys(timed) if key.startswith("float32") and not key.endswith("/1")]:
            lines += ["", f"### Every contender: {key.replace('/', ', ')} rows", "", *engine_table(timed, key)]
        plot_evaluate(timed, out.with_name(f"{out.stem}_evaluate.png"))
        lines += ["", f"![evaluation times]({out.stem}_evaluate.png)"]
        wrong = faults(timed)
        if wrong:
            lines += [
                "",
                "## Not timed because the values were wrong (mostly underflow in the real semiring)",
                "",
                *wrong,
            ]
    if memory:
        setting = next(iter(memory.values()))["settings"]
        lines += [
            "",
            f"## Memory: {setting['elements']:,} elements, {setting['batch']} rows, forward and backward, float32",
        ]
        lines += ["", *memory_table(memory)]
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


def _keys(timed: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(key for found in timed.values() for key in found.get("times", {})))


def _preface(box: dict[str, Any], timed: dict[str, Any]) -> list[str]:
    loads = [found[word] for found in timed.values() for word in ("load_before", "load_after") if word in found]
    lines = []
    if box:
        versions = ", ".join(f"{name} {version}" for name, version in box["versions"].items())
        lines = [
            f"{box['processor']}, {box['cores']} cores, Python {box['python']}; {versions}. One thread copies "
            f"{box['copy_bytes_per_second'] / 1e9:.1f} GB/s (read and write).",
        ]
    if loads:
        lines.append(f"Load of the machine meanwhile: {min(loads):.1f} to {max(loads):.1f}. Trust ratios above 1.5.")
    lines += [
        "",
        "All times are CPU seconds of one thread, medians of interleaved rounds. KLay runs with `compile=False`. The",
        "*same circuit* is the SDD that pysdd makes without vtree search (for hierarchies with a vtree of their shape),",
        "or d4's circuit where that does not finish; all engines load that file. *Own circuit* is what our portfolio",
        "makes of the same rules. Ours is the engine that is chosen automatically, KLay the faster of its semirings; the",
        "tables of every contender show all others. Positive and negative weights sum to 1, because KLay does not smooth. For gradients",
        "each takes those of its own inputs: weights of both signs, in KLay's log semiring their logs. PySDD's one call",
        "always computes value and derivatives. A star marks times scaled up from fewer rows (PySDD: 200 rows; KLay:",
        "as many as fit in memory). Before timing, values agree with PySDD (else KLay) in float64 to 1e-9, slopes to",
        "1e-7, and small cases with enumeration in fractions. The best world comes from KLay by its slopes. The copy",
        "bound is the time to read each edge and write each stored node once at the copy speed above.",
    ]
    return lines


def plot_compile(results: dict[str, Any], path: Path) -> None:
    """CPU seconds by case; hollow bars are limits."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(key.split("/")[0] for key in results))
    figure, axes = plt.subplots(figsize=(8.5, 0.42 * len(names) + 1.6))
    step = 0.8 / len(METHODS)
    for m, method in enumerate(METHODS):
        for row, name in enumerate(names):
            found = results.get(f"{name}/{method}")
            if found is None:
                continue
            failed = "failed" in found
            place, seconds = row + (m - (len(METHODS) - 1) / 2) * step, found.get("seconds", found.get("limit", 1.0))
            look: dict[str, Any] = (
                {"facecolor": "none", "edgecolor": COLOURS[method], "hatch": "////", "linewidth": 0.6}
                if failed
                else {"color": COLOURS[method]}
            )
            axes.barh(place, max(seconds, 1e-4), height=step, label=method if row == 0 else None, **look)
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("CPU seconds to compile (hatched: stopped at the limit)")
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[method]) for method in METHODS]
    axes.legend(
        handles, METHODS, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.55 / (0.42 * len(names) + 1)), ncols=5
    )
    axes.grid(axis="x", alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)


SERIES = (
    ("ours, own circuit", ("neurosym own circuit, auto",), "\0", "#0b3d6b", "o"),
    ("ours, same circuit", ("neurosym auto",), "own circuit", "#1f6fb4", "s"),
    ("KLay", ("klay",), "own circuit", "#c0392b", "^"),
    ("PySDD loop", ("pysdd",), "\0", "#c77c11", "v"),
)


def plot_evaluate(results: dict[str, Any], path: Path) -> None:
    """Microseconds a row by batch size, a panel for each case; forward (dashed) and with gradient (solid)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [name for name, found in results.items() if found.get("times")]
    if not names:
        return
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.1 * columns, 2.7 * rows), squeeze=False, sharex=True)
    for place, axes in enumerate(grid.ravel()):
        if place >= len(names):
            axes.set_visible(False)
            continue
        _panel(axes, names[place], results[names[place]]["times"])
        if place % columns == 0:
            axes.set_ylabel("CPU µs per row")
        if place >= len(names) - columns:
            axes.set_xlabel("rows in the batch")
            axes.tick_params(labelbottom=True)
    lines = [plt.Line2D([], [], color=colour, marker=mark, markersize=4) for _, _, _, colour, mark in SERIES]
    lines += [plt.Line2D([], [], color="#555555", linestyle=style) for style in ("-", "--")]
    labels = [*(series[0] for series in SERIES), "count and gradient", "count"]
    figure.legend(
        lines, labels, loc="lower center", ncols=6, fontsize=8, frameon=False, bbox_to_anchor=(0.5, -0.04 / rows)
    )
    figure.tight_layout(rect=(0, 0.035, 1, 1))
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)


def _panel(axes: Any, name: str, times: dict[str, Any]) -> None:
    for _, words, without, colour, mark in SERIES:
        for operation, style in (("backward", "-"), ("forward", "--")):
            points = []
            for key, timed in times.items():
                dtype, what, batch = key.split("/")
                entry = best(timed, words, without)
                if dtype == "float32" and what == operation and entry is not None:
                    points.append((int(batch), entry[1] / int(batch) * 1e6))
            if points:
                axes.plot(
                    *zip(*sorted(points), strict=True),
                    color=colour,
                    marker=mark,
                    linestyle=style,
                    markersize=4,
                    linewidth=1.2,
                )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_title(name, fontsize=9)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
