"""``awa.yaml``: what each of the 50 animals implies, from the tables that come with Animals with Attributes 2.

    python benchmarks/awa/make_rules.py --root $NEUROSYM_DATA/awa2

Class -> attribute for every 1 of the binary matrix (Xian et al. 2018; the same as that of the first data set, Lampert et
al. 2009), and class -> kind -> kind along the WordNet hierarchy, of which the kinds that hold at least two and at most half
of the classes are kept.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SMALLEST, LARGEST = 2, 25
"""Classes that a kept kind holds."""


def _name(text: str) -> str:
    return re.sub(r"\W+", "_", text.strip().lower()).strip("_")


def names(path: Path) -> list[str]:
    """Second column of a table of numbers and names."""
    return [_name(line.split()[1]) for line in path.read_text().splitlines() if line.strip()]


def triples(path: Path) -> list[tuple[str, str]]:
    """Subject and object of every line."""
    rows = (line.split("\t") for line in path.read_text().splitlines() if line.strip())
    return [(row[0].strip(), row[2].strip()) for row in rows]


def kinds(folder: Path, classes: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Nearest kept kind of every class and of every kept kind (where it has one), by name."""
    parent = dict(triples(folder / "hierarchy" / "class_hierarchy_triples.txt"))
    label = {a: _name(b.split(",")[0]) for a, b in triples(folder / "hierarchy" / "literals.txt")}
    synonyms = {a: {_name(x) for x in b.split(",")} for a, b in triples(folder / "hierarchy" / "literals.txt")}
    node = {c: next((k for k, s in synonyms.items() if c in s and k.startswith("AwA:n")), "") for c in classes}
    missing = [c for c, k in node.items() if not k]
    if missing:
        raise SystemExit(f"literals.txt: no node for {', '.join(missing)}")

    def up(start: str) -> list[str]:
        found: list[str] = []
        while start in parent and parent[start] not in found:
            start = parent[start]
            found.append(start)
        return found

    below: dict[str, set[str]] = {}
    for name, start in node.items():
        for kind in up(start):
            below.setdefault(kind, set()).add(name)
    own = set(node.values())
    kept = {k for k, members in below.items() if SMALLEST <= len(members) <= LARGEST and k not in own}
    # of kinds that hold the same classes the lowest says it all
    for kind in sorted(kept):
        if any(other != kind and below[other] == below[kind] and kind in up(other) for other in kept):
            kept.discard(kind)

    def nearest(start: str) -> str | None:
        return next((label[k] for k in up(start) if k in kept), None)

    of_class = {name: found for name, start in node.items() if (found := nearest(start))}
    of_kind = {label[k]: found for k in kept if (found := nearest(k))}
    return of_class, of_kind


def rules(folder: Path) -> str:
    """The rules file."""
    classes, attributes = names(folder / "classes.txt"), names(folder / "predicates.txt")
    matrix = np.loadtxt(folder / "predicate-matrix-binary.txt", dtype=int)
    of_class, of_kind = kinds(folder, classes)
    taken = set(classes) | set(attributes)
    found = sorted({*of_class.values(), *of_kind, *of_kind.values()})
    called = {kind: f"{kind}_kind" if kind in taken else kind for kind in found}
    first = [f"{c} -> {attributes[j]}" for i, c in enumerate(classes) for j in np.flatnonzero(matrix[i])]
    second = [f"{c} -> {called[k]}" for c, k in of_class.items()]
    second += [f"{called[a]} -> {called[b]}" for a, b in sorted(of_kind.items())]
    lines = [
        "# Animals with Attributes: 50 classes, 85 attributes and kinds of animals; written by make_rules.py.",
        f"classes: [{', '.join(classes)}]",
        f"concepts: [{', '.join([*attributes, *called.values()])}]",
        "rules:",
        *(f"  - {rule}" for rule in [*first, *second]),
        "circuits:",
        f"  attributes: {{rules: [{', '.join(map(str, range(len(first))))}]}}",
        f"  kinds: {{rules: [{', '.join(str(len(first) + i) for i in range(len(second)))}]}}",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with classes.txt and hierarchy/")
    parser.add_argument("--out", type=Path, default=HERE / "awa.yaml")
    options = parser.parse_args()
    options.out.write_text(rules(options.root))


if __name__ == "__main__":
    main()
