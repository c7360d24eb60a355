"""Text to formula.

Operators, loosest first: ``<->`` (left), ``->`` (right), ``|``, ``&``, ``~``; then names, true, false and
parentheses. ``a | b | c`` is one disjunction of three; ``(a | b) | c`` keeps its nesting. The grammar is LALR(1):
parsing uses no recursion whatever the input.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from neurosym.errors import InputError
from neurosym.logic.formula import And, Const, Formula, Iff, Implies, Not, Or, Var

if TYPE_CHECKING:
    from lark import Lark

GRAMMAR = r"""
?start: iff
?iff: implies
    | iff "<->" implies         -> iff_
?implies: disjunction
    | disjunction "->" implies  -> implies_
?disjunction: conjunction
    | conjunction ("|" conjunction)+  -> or_
?conjunction: unary
    | unary ("&" unary)+        -> and_
?unary: atom
    | "~" unary                 -> not_
?atom: NAME                     -> var
    | "true"                    -> true_
    | "false"                   -> false_
    | "(" iff ")"

IFF: "<->"
IMPLIES: "->"
OR: "|"
AND: "&"
NOT: "~"
TRUE: "true"
FALSE: "false"
OPEN: "("
CLOSE: ")"
NAME: /[A-Za-z_][A-Za-z0-9_]*/
%ignore /[ \t\r\n]+/
"""

_OPERAND = frozenset({"NAME", "TRUE", "FALSE", "OPEN", "NOT"})
_OPERATORS = frozenset({"AND", "OR", "IMPLIES", "IFF"})
_HINTS = {
    "and": "&", "AND": "&", "∧": "&", "*": "&", "&&": "&",
    "or": "|", "OR": "|", "∨": "|", "+": "|", "||": "|",
    "not": "~", "NOT": "~", "!": "~", "¬": "~", "-": "~",
    "=>": "->", "==>": "->", "→": "->", "⇒": "->", "implies": "->",
    "==": "<->", "<=>": "<->", "↔": "<->", "⇔": "<->", "iff": "<->", "=": "<->",
}  # fmt: skip


@cache
def _parser() -> Lark:
    from lark import (
        Lark,
        Transformer,
        v_args,
    )  # imported on first use: it costs more than the rest of the package

    class Build(Transformer):  # type: ignore[type-arg, misc, unused-ignore]
        """Called by the parser at every reduction, hence bottom-up and without recursion."""

        def and_(self, args: list[Formula]) -> Formula:
            return And(tuple(args))

        def or_(self, args: list[Formula]) -> Formula:
            return Or(tuple(args))

        @v_args(inline=True)
        def implies_(self, left: Formula, right: Formula) -> Formula:
            return Implies(left, right)

        @v_args(inline=True)
        def iff_(self, left: Formula, right: Formula) -> Formula:
            return Iff(left, right)

        @v_args(inline=True)
        def not_(self, arg: Formula) -> Formula:
            return Not(arg)

        @v_args(inline=True)
        def var(self, token: str) -> Formula:
            return Var(str(token))

        def true_(self, _: list[Any]) -> Formula:
            return Const(True)

        def false_(self, _: list[Any]) -> Formula:
            return Const(False)

    return Lark(GRAMMAR, parser="lalr", lexer="contextual", transformer=Build())


def parse(text: str) -> Formula:
    """Parse one formula.

    Raises:
        InputError: one line with the column (and line, if the text has several) and what was expected.
    """
    from lark.exceptions import UnexpectedInput, UnexpectedToken

    if not isinstance(text, str):
        raise InputError(f"a rule must be text, not {text!r}")
    if not text.strip():
        raise InputError("a rule must not be empty; expected a name, 'true', 'false', '~' or '('")
    try:
        return _parser().parse(text)  # type: ignore[return-value, unused-ignore]
    except UnexpectedToken as error:
        position = len(text.rstrip()) if error.token.type == "$END" else error.token.start_pos or 0
        raise InputError(_message(text, position, set(error.accepts or error.expected))) from None
    except UnexpectedInput as error:
        expected = set(getattr(error, "allowed", None) or ()) - {"__IGNORE_0"}
        raise InputError(_message(text, error.pos_in_stream or 0, expected)) from None


def _message(text: str, position: int, expected: set[str]) -> str:
    line = text.count("\n", 0, position) + 1
    column = position - (text.rfind("\n", 0, position) + 1) + 1
    place = f"column {column}" if "\n" not in text.strip() else f"line {line}, column {column}"
    if position >= len(text.rstrip()):
        return f"{place}: expected {_expected(expected)}, but the rule ends"
    hint = _hint(text, position, "NOT" in expected)
    found = f"unexpected {_word(text[position:])!r}"
    if hint:
        return f"{place}: {found}; {hint}"
    return f"{place}: {found}; expected {_expected(expected)}"


def _word(rest: str) -> str:
    """The offending name or run of symbols, cut to a readable length."""
    is_name = rest[0].isalnum() or rest[0] == "_"
    end = 1
    while end < min(len(rest), 30) and (rest[end].isalnum() or rest[end] == "_") == is_name:
        if not is_name and (rest[end].isspace() or rest[end] in "()~"):
            break
        end += 1
    return rest[:end]


def _hint(text: str, position: int, operand: bool) -> str:
    """How to write what was probably meant, or nothing; ``operand`` says that '~' would be allowed here."""
    rest = text[position:]
    word = _word(rest)
    if word in ("&", "|") and text[position - 1 : position] == word:
        return f"write a single {word!r}"
    if text[:position].split()[-1:] in (["not"], ["NOT"]):
        return "write '~' instead of 'not'"
    for candidate in (word, rest[:1]):
        meant = _HINTS.get(candidate)
        if meant and (meant == "~") == operand and not rest.startswith("->"):
            return f"write {meant!r} instead of {candidate!r}"
    return "names do not start with a digit" if word[0].isdigit() else ""


def _expected(terminals: set[str]) -> str:
    words = []
    if terminals & _OPERAND:
        words.append("a name, 'true', 'false', '~' or '('")
    elif terminals & _OPERATORS:
        words.append("an operator '&', '|', '->', '<->'")
    words += [text for name, text in (("CLOSE", "')'"), ("$END", "the end")) if name in terminals]
    return " or ".join(words) if words else "a name, an operator or a parenthesis"
