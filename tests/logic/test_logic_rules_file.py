"""Rules files: every mistake gives one line with the file, the line and the mend."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurosym.errors import InputError
from neurosym.logic import KnowledgeBase

HEAD = "classes: [stop, yield]\nconcepts: [octagon, triangle, red]\n"  # two lines

MISTAKES = [
    # structure
    ("", 1, "empty"),
    ("# only a comment\n", 1, "empty"),
    ("- stop\n", 1, "must be a mapping"),
    ("just text\n", 1, "must be a mapping"),
    ("concepts: [a]\n", 1, "'classes' is missing"),
    ("\nclasses: []\n", 2, "classes is empty"),
    ("classes:\n", 1, "classes is empty"),
    ("classes: stop\n", 1, "classes must be a list"),
    ("classes: {stop: 1}\n", 1, "classes must be a list"),
    (HEAD + "rule:\n  - stop\n", 3, "unknown key 'rule' in the rules file; did you mean 'rules'?"),
    (HEAD + "zzzz: 1\n", 3, "known keys: classes, concepts"),
    (HEAD + "1: 1\n", 3, "unknown key 1"),
    (HEAD + "classes: [a]\n", 3, "the key 'classes' is already on line 1"),
    (HEAD + "? [a]\n: 1\n", 3, "a key must be a name"),
    # not YAML
    ("classes: [a\nconcepts: [b]\n", 2, "not a YAML rules file"),
    ("classes: [a]\n\tconcepts: [b]\n", 2, "not a YAML rules file"),
    ("classes: [a]\n--- \nclasses: [b]\n", 2, "not a YAML rules file"),
    ("classes: [a]\nconcepts: *nothing\n", 2, "not a YAML rules file"),
    ("classes: [a]\nconcepts: [b\x01]\n", 2, "not allowed"),
    ("classes: [a]\nconcepts: !!python/object:os.system [b]\n", 2, "tag"),
    ("classes: [a]\nconcepts: [!!python/name:os.system b]\n", 2, "not a YAML rules file"),
    ("classes: [a]\nconcepts: !!set {b}\n", 2, "tag"),
    ("classes: [a]\nconcepts: " + "[" * 5000 + "]" * 5000, 2, "nested too deeply"),
    ("classes: &x [a, *x]\n", 1, "aliases"),
    ("classes: [a]\nconcepts: [2024-13-45]\n", 2, "cannot read '2024-13-45'"),
    ("classes: [a]\nconcepts: [!!int x]\n", 2, "cannot read 'x'"),
    ("classes: [a]\nconcepts: [!!bool x]\n", 2, "cannot read 'x'"),
    ("classes: [a]\nconcepts: [!!timestamp x]\n", 2, "cannot read 'x'"),
    ("classes: [a]\nconcepts: [" + "9" * 6000 + "]\n", 2, "cannot read '999"),
    ("classes: [a]\n!!int x: 3\n", 2, "cannot read 'x'"),
    # names
    ("classes:\n  - a\n  - b\n  - a\n", 4, "classes[2] 'a' repeats classes[0]"),
    ("classes:\n  - a b\n", 2, "letters, digits and _"),
    ("classes:\n  - a\n  - 2b\n", 3, "not start with a digit"),
    ("classes: [a]\nconcepts:\n  - ok\n  - no\n", 4, "read as a truth value (false); put the word in quotes"),
    ("classes: [a]\nconcepts:\n  - 'true'\n", 3, "reserved word"),
    ("classes: [a]\nconcepts: [b,\n  7]\n", 3, "must be text, not 7"),
    ("classes: [a]\nconcepts:\n  - \n", 3, "must be text, not None"),
    ("classes: [a]\nconcepts:\n  - [b]\n", 3, "must be text"),
    ("classes: [a, b]\nconcepts: [c,\n d,\n a]\n", 4, "concepts[2] 'a' is also a class"),
    # rules
    (HEAD + "rules: stop\n", 3, "rules must be a list"),
    (HEAD + "rules:\n  - stop -> octogon\n", 4, "unknown predicate 'octogon'; did you mean 'octagon'?"),
    (HEAD + "rules:\n  - stop\n  - stop -> zzz\n", 5, "'zzz'; add it to classes or concepts"),
    (HEAD + "rules:\n  - stop -> \n", 4, "rules[0]: column 8: expected a name"),
    (HEAD + "rules:\n  - stop\n  - stop and red\n", 5, "rules[1]: column 6: unexpected 'and'; write '&'"),
    (HEAD + "rules:\n  - {rule: stop,\n     wieght: 2}\n", 5, "'wieght' in rules[0]; did you mean 'weight'?"),
    (HEAD + "rules:\n  - {weight: 2}\n", 4, "rules[0]: 'rule' is missing"),
    (HEAD + "rules:\n  - {rule: }\n", 4, "rules[0] must be text"),
    (HEAD + "rules:\n  - true\n", 4, "put the rule in quotes"),
    (HEAD + "rules:\n  - 3\n", 4, "put the rule in quotes"),
    (HEAD + "rules:\n  - [stop]\n", 4, "not a list"),
    (HEAD + "rules:\n  - \n", 4, "not empty"),
    (HEAD + "rules:\n  - ''\n", 4, "rules[0]: a rule must not be empty"),
    (HEAD + "rules:\n  - " + "~" * 300 + "stop\n", 4, "nests deeper"),
    # weights
    (HEAD + "rules:\n  - rule: stop\n    weight: -2\n", 5, "weight -2 is negative; write ~(rule) with weight 2"),
    (HEAD + "rules:\n  - rule: stop\n    weight: -.inf\n", 5, "weight -inf is negative"),
    (HEAD + "rules:\n  - rule: stop\n    weight: .nan\n", 5, "NaN"),
    (HEAD + "rules:\n  - rule: stop\n    weight: hard\n", 5, "weight must be a number, not 'hard'"),
    (HEAD + "rules:\n  - rule: stop\n    weight: inf\n", 5, "write .inf"),
    (HEAD + "rules:\n  - rule: stop\n    weight: 1e3\n", 5, "write 1000.0"),
    (HEAD + "rules:\n  - rule: stop\n    weight: '4'\n", 5, "write 4.0 without quotes"),
    (HEAD + "rules:\n  - rule: stop\n    weight: yes\n", 5, "weight must be a number, not True"),
    (HEAD + "rules:\n  - rule: stop\n    weight:\n", 5, "weight must be a number, not None"),
    (HEAD + "rules:\n  - rule: stop\n    weight: " + "9" * 400 + "\n", 5, "too large"),
    # groups
    (HEAD + "groups: [octagon]\n", 3, "groups must be a mapping"),
    (HEAD + "groups:\n  g: [octagon]\n", 4, "groups.g must be a mapping"),
    (HEAD + "groups:\n  g: {exactly_on: [octagon]}\n", 4, "did you mean 'exactly_one'?"),
    (HEAD + "groups:\n  g: {}\n", 4, "needs one of exactly_one or at_most_one"),
    (HEAD + "groups:\n  g: {exactly_one: [red], at_most_one: [red]}\n", 4, "needs one of"),
    (HEAD + "groups:\n  g: {exactly_one: []}\n", 4, "has no members"),
    (HEAD + "groups:\n  g: {exactly_one: red}\n", 4, "must be a list of names"),
    (HEAD + "groups:\n  g:\n    exactly_one:\n      - red\n      - redd\n", 7, "did you mean 'red'?"),
    (HEAD + "groups:\n  g:\n    exactly_one:\n      - red\n      - red\n", 7, "repeats exactly_one[0]"),
    (HEAD + "groups:\n  g: {exactly_one: [red]}\n  g: {at_most_one: [red]}\n", 5, "'g' is already on line 4"),
    (HEAD + "groups:\n  my group: {exactly_one: [red]}\n", 4, "letters, digits and _"),
    (HEAD + "groups:\n  on: {exactly_one: [red]}\n", 4, "truth value (true); put the word in quotes"),
    # circuits
    (HEAD + "rules: [stop]\ncircuits: [0]\n", 4, "circuits must be a mapping"),
    (HEAD + "rules: [stop]\ncircuits:\n  c: {rules: [1]}\n", 5, "circuits.c.rules[0] = 1 is not a rule"),
    (HEAD + "rules: [stop]\ncircuits:\n  c:\n    rules:\n      - 0\n      - -1\n", 8, "= -1 is not a rule"),
    (HEAD + "rules: [stop]\ncircuits:\n  c: {rules: [0, 0]}\n", 5, "names rule 0 a second time"),
    (HEAD + "rules: [stop]\ncircuits:\n  c: {rules: []}\n", 5, "rules is empty"),
    (HEAD + "rules: [stop]\ncircuits:\n  c: {rules: 0}\n", 5, "must be a list of rule numbers"),
    (HEAD + "rules: [stop]\ncircuits:\n  c: {rules: [stop]}\n", 5, "must be the number of a rule"),
    (HEAD + "rules: [stop]\ncircuits:\n  c: {rules: [0.5]}\n", 5, "must be the number of a rule"),
    (HEAD + "rules: [stop]\ncircuits:\n  c: {rules: [true]}\n", 5, "must be the number of a rule"),
    (HEAD + "rules: [stop]\ncircuits:\n  c: {beta: 1}\n", 5, "'rules' is missing"),
    (HEAD + "rules: [stop]\ncircuits:\n  c:\n    rules: [0]\n    beta: 0\n", 7, "beta must be a finite number > 0"),
    (HEAD + "rules: [stop]\ncircuits:\n  c:\n    rules: [0]\n    beta: .inf\n", 7, "beta must be a finite number"),
    (HEAD + "rules: [stop]\ncircuits:\n  c:\n    rules: [0]\n    bta: 1\n", 7, "did you mean 'beta'?"),
    (HEAD + "rules: [stop]\ncircuits:\n  rest: {rules: [0]}\n", 5, "choose another"),
    (HEAD + "rules: [stop, red]\ncircuits:\n  c: {rules: [0], beta: 1}\n", 4, "leave nothing for 'rest'"),
    # contradictions
    (HEAD + "rules:\n  - stop\n  - {rule: red & ~red, weight: .inf}\n", 5, "no world obeys rules[1] 'red & ~red'"),
    (
        HEAD + "rules:\n  - {rule: stop, weight: .inf}\n  - {rule: red, weight: .inf}\n"
        "  - {rule: stop -> ~red, weight: .inf}\n  - {rule: octagon, weight: .inf}\n",
        4,
        "no world obeys all of rules[0] 'stop' (line 4), rules[1] 'red' (line 5), rules[2] 'stop -> ~red' (line 6);",
    ),
    (
        HEAD + "groups:\n  colour: {at_most_one: [red, triangle]}\n  shape: {exactly_one: [octagon, triangle]}\n"
        "rules:\n  - {rule: red, weight: .inf}\n  - {rule: ~octagon, weight: .inf}\n",
        7,
        "groups.colour (at_most_one), groups.shape (exactly_one)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "words"), MISTAKES)
def test_mistakes_give_their_line(text: str, line: int, words: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        KnowledgeBase.from_yaml(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: ")
    assert words in message
    assert "\n" not in message
    assert type(caught.value) is InputError
    with pytest.raises(InputError, match=f"^<rules>:{line}: "):
        KnowledgeBase.from_text(text)


def test_missing_file_folder_and_encoding(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot read the rules file: no such file"):
        KnowledgeBase.from_yaml(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="directory"):
        KnowledgeBase.from_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"classes: [a]\nconcepts: [b] # caf\xe9\n")
    with pytest.raises(InputError, match=r"latin\.yaml:2: not UTF-8"):
        KnowledgeBase.from_yaml(tmp_path / "latin.yaml")


def test_mark_of_byte_order_and_windows_lines_are_read(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_bytes(b"\xef\xbb\xbfclasses: [a]\r\nconcepts: [b]\r\nrules:\r\n- a -> b\r\n")
    kb = KnowledgeBase.from_yaml(str(tmp_path / "w.yaml"))
    assert kb.rules[0].line == 4


def test_empty_optional_keys_and_aliases_are_read() -> None:
    text = "classes: &c [a, b]\nconcepts:\nrules:\ngroups: {label: {exactly_one: *c}}\ncircuits: {}\n"
    kb = KnowledgeBase.from_text(text)
    assert kb.concepts == ()
    assert kb.groups[0].members == ("a", "b")


def test_weights_and_rules_over_several_lines() -> None:
    text = "classes: [a]\nconcepts: [b, c]\nrules:\n  - >\n    a ->\n    b\n  - {rule: ~c, weight: .inf}\n  - rule: |\n      a & b\n      | c\n    weight: 0\n"
    kb = KnowledgeBase.from_text(text)
    assert [r.text for r in kb.rules] == ["a -> b", "~c", "a & b | c"]
    assert [r.weight for r in kb.rules] == [1.5, float("inf"), 0.0]
    assert [r.line for r in kb.rules] == [4, 7, 8]


def test_expanding_aliases_is_bounded() -> None:
    start = time.perf_counter()
    text = "classes: [a]\nconcepts:\n - &x [" + ",".join("a" * 2000) + "]\n - &y [" + ",".join(["*x"] * 2000)
    text += "]\n - [" + ",".join(["*y"] * 2000) + "]\n"
    with pytest.raises(InputError, match="aliases make this file too large"):
        KnowledgeBase.from_text(text)
    assert time.perf_counter() - start < 20


def test_soft_contradictions_are_fine() -> None:
    kb = KnowledgeBase.from_text("classes: [a]\nrules: [a, ~a, 'false']\n")
    assert len(kb.rules) == 3


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab:[]{}-,&*|>~ \n'\"#!?1.", max_size=40))
def test_any_text_gives_knowledge_or_one_line(text: str) -> None:
    try:
        KnowledgeBase.from_text("classes: [a, b]\nrules:\n" + text)
    except InputError as error:
        assert str(error).startswith("<rules>:")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
