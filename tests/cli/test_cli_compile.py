"""``neurosym compile``: table, counts against enumeration, picture, refusals."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

RULES = """\
classes: [stop, yield, keep]
concepts: [octagon, triangle, red, spare]
rules:
  - stop -> octagon
  - {rule: "yield -> triangle & red", weight: .inf}
  - keep -> ~red
groups: {shape: {exactly_one: [octagon, triangle]}}
circuits: {shape: {rules: [0, 1], beta: 0.5}, colour: {rules: [2]}}
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


def enumerated(path: Path, every_rule: bool) -> int:
    """Model count by trying every world."""
    from neurosym.logic import KnowledgeBase, evaluate

    kb = KnowledgeBase.from_yaml(path)
    formulas = [rule.formula for rule in kb.rules if rule.hard or every_rule]
    worlds = (
        dict(zip(kb.predicates, values, strict=True))
        for values in itertools.product((False, True), repeat=kb.num_predicates)
    )
    return sum(all(evaluate(f, w) for f in formulas) and all(g.holds(w) for g in kb.groups) for w in worlds)


def test_table(run: Any, rules: Path) -> None:
    ran = run("compile", rules)
    assert ran.code == 0, ran.err
    assert ran.err == ""
    assert max(len(line) for line in ran.out.splitlines()) <= 80
    for text in ("shape", "colour", "3 rules, 1 hard; 1 groups", "of 128", "nodes"):
        assert text in ran.out


@pytest.mark.parametrize("circuit", ["rules", "exclusive"])
def test_json(run: Any, rules: Path, circuit: str) -> None:
    ran = run("compile", rules, "--circuit", circuit, "--json")
    content = json.loads(ran.out)
    assert content["worlds"] == 128
    assert content["worlds_allowed"] == enumerated(rules, every_rule=False)
    assert content["worlds_obeying"] == enumerated(rules, every_rule=True)
    assert [part["name"] for part in content["parts"]] == (["shape", "colour"] if circuit == "rules" else ["exclusive"])
    assert sum(part["nodes"] for part in content["parts"]) == content["size"]["nodes"] > 0
    assert sum(part["beta"] for part in content["parts"]) == pytest.approx(1)
    assert content["seconds"] > 0
    assert content["files"] == {}


def test_rules_that_contradict_each_other_softly(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("classes: [a, b]\nrules: [a, ~a, 'false']\n")
    content = json.loads(run("compile", path, "--json").out)
    assert (content["worlds_allowed"], content["worlds_obeying"]) == (4, 0)


def test_picture(run: Any, rules: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.dot"
    ran = run("compile", rules, "--picture", path)
    assert ran.code == 0, ran.err
    assert f"wrote {path}" in ran.out
    text = path.read_text()
    assert text.count("subgraph") == 2
    assert text.count("{") == text.count("}")
    nodes = set(re.findall(r"^    (n\d+_\d+_\d+) \[", text, flags=re.MULTILINE))
    edges = re.findall(r"^    (n\S+) -> (n\S+);", text, flags=re.MULTILINE)
    content = json.loads(run("compile", rules, "--json").out)
    assert len(nodes) == content["size"]["nodes"]
    assert len(edges) == content["size"]["edges"]
    assert {name for edge in edges for name in edge} <= nodes
    assert '"~red"' in text


def test_picture_of_a_large_circuit_is_refused(
    run: Any, refused: Any, rules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neurosym.circuits.formats import picture

    for name, limit in (("x.dot", "MOST_DOT_NODES"), ("x.svg", "MOST_SVG_NODES")):
        monkeypatch.setattr(picture, limit, 3)
        for option in ("--picture", "--out"):
            refused(run("compile", rules, option, tmp_path / name), option, "too many to draw")
    assert not (tmp_path / "x.svg").exists()
    assert not (tmp_path / "x.dot").exists()


def test_out_reads_back(run: Any, rules: Path, tmp_path: Path) -> None:
    pytest.importorskip("neurosym.circuits.formats.npz")
    import torch

    from neurosym import circuits
    from neurosym.logic import KnowledgeBase

    path = tmp_path / "c.npz"
    ran = run("compile", rules, "--out", path)
    assert ran.code == 0, ran.err
    p = torch.rand(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = circuits.marginals(circuits.load(path), p)
    torch.testing.assert_close(found, circuits.marginals(KnowledgeBase.from_yaml(rules), p))


@pytest.mark.parametrize("circuit", ["rules", "exclusive"])
def test_out_as_nnf_is_the_circuit_of_all_predicates(run: Any, refused: Any, rules: Path, circuit: str) -> None:
    """At weights 1 its value is the sum over all worlds of exp(-weights of the violated rules)."""
    from neurosym.circuits.formats.nnf import read_nnf
    from neurosym.logic import KnowledgeBase, evaluate

    path = rules.parent / "c.nnf"
    if circuit == "rules":
        refused(run("compile", rules, "--out", path), "2 circuits", "--circuit exclusive")
        rules.write_text(RULES[: RULES.index("circuits:")])
    ran = run("compile", rules, "--circuit", circuit, "--out", path, "--json")
    assert json.loads(ran.out)["files"] == {"circuit": str(path)}
    kb = KnowledgeBase.from_yaml(rules)
    expected = 0.0
    for values in itertools.product((False, True), repeat=kb.num_predicates):
        world = dict(zip(kb.predicates, values, strict=True))
        if all(g.holds(world) for g in kb.groups) and (circuit == "rules" or sum(values[:3]) == 1):
            expected += math.exp(-sum(0.0 if evaluate(r.formula, world) else r.weight for r in kb.rules))
    found = read_nnf(path)
    assert found.num_variables == kb.num_predicates
    assert "c variable 5 triangle" in path.read_text()
    values_of: list[float] = []
    for node in range(found.num_nodes):
        kids = [values_of[child] for child in found.children_of(node)]
        kind = int(found.kind[node])
        values_of.append((1.0, math.exp(found.log_constant[node]), math.prod(kids), sum(kids))[kind])
    assert values_of[-1] == pytest.approx(expected, rel=1e-12)


def test_svg(run: Any, rules: Path, tmp_path: Path) -> None:
    from xml.etree import ElementTree

    ran = run("compile", rules, "--picture", tmp_path / "x.svg", "--out", tmp_path / "y.svg")
    assert ran.code == 0, ran.err
    text = (tmp_path / "x.svg").read_text()
    assert text == (tmp_path / "y.svg").read_text()
    words = [element.text for element in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")]
    assert {"shape (beta 0.5)", "colour (beta 0.5)", "octagon", "¬red", "+", "×"} <= set(words)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("classes: [a]\nrules: [a -> octogon]\n", ("rules.yaml:2", "unknown predicate", "octogon")),
        ("classes: [a]\nrules: [{rule: a, weight: .inf}, {rule: ~a, weight: .inf}]\n", ("rules.yaml",)),
        ("classes: [a]\nrules: ['a ->']\n", ("rules.yaml:2",)),
        ("classes: [a]\nruels: []\n", ("rules.yaml:2", "ruels")),
        ("{", ("rules.yaml",)),
        ("", ("rules.yaml",)),
    ],
)
def test_bad_rules(run: Any, refused: Any, tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    out = tmp_path / "o"
    out.mkdir()
    refused(run("compile", path, "--out", out / "c.npz", "--picture", out / "x.dot"), *parts, folder=out)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("no.yaml",), ("no.yaml: no such file",)),
        (("R", "--circuit", "exclusif"), ("--circuit", "did you mean 'exclusive'?")),
        (("R", "--class-kind", "x"), ("--class-kind", "binary, categorical")),
        (("R", "--max-seconds", "0"), ("--max-seconds",)),
        (("R", "--max-seconds", "nan"), ("--max-seconds",)),
        (("R", "--max-nodes", "0"), ("--max-nodes",)),
        (("R", "--max-nodes", "5"), ("compilation stopped",)),
        (("R", "--out", "c.txt"), ("--out c.txt", ".npz")),
        (("R", "--picture", "x.png"), ("--picture x.png", ".dot, .gv, .svg")),
        (("R", "--out", "no/such/c.npz"), ("no such folder",)),
        (("R", "--out", "DIR"), ("is a folder",)),
    ],
)
def test_refused(run: Any, refused: Any, rules: Path, words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    known = {"R": rules, "DIR": rules.parent}
    refused(run("compile", *(known.get(word, word) for word in words)), *parts)
