"""The error budget: ``alpha`` is the total, and every failure probability of a guarantee is an item of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from neurosym.certify.exact import Number, decimal, to_text
from neurosym.certify.quantile import level
from neurosym.certify.records import BudgetItem
from neurosym.errors import InputError

# Share of alpha that each Monte-Carlo item takes unless told otherwise. A bound's width grows like sqrt(ln(1/share)),
# while the conformal level shrinks linearly in it, so a few per cent are near the optimum over a wide range.
DEFAULT_SHARE = Fraction(1, 20)


@dataclass(frozen=True)
class Spend:
    """One item to be paid: ``amount`` exact or a decimal, None for ``DEFAULT_SHARE`` of alpha."""

    name: str
    note: str
    amount: Number | None = None


def split(alpha: Number, items: Sequence[Spend]) -> tuple[BudgetItem, ...]:
    """Items that sum exactly to ``alpha``: ``conformal`` first, then ``items`` in their order.

    Raises:
        InputError: an item is not positive, or the items leave nothing for the conformal level.
    """
    total = level(alpha)
    amounts: list[Fraction] = []
    for item in items:
        amount = total * DEFAULT_SHARE if item.amount is None else decimal(item.amount, item.name)
        if amount <= 0:
            raise InputError(f"budget item {item.name}: {item.amount} is not positive; give e.g. {to_text(total / 20)}")
        amounts.append(amount)
    rest = total - sum(amounts, Fraction(0))
    if rest <= 0:
        spent = " + ".join(f"{item.name} {to_text(a)}" for item, a in zip(items, amounts, strict=True))
        raise InputError(
            f"alpha: {to_text(total)} leaves nothing for calibration ({spent}); raise alpha, or spend at most "
            f"{to_text(total * DEFAULT_SHARE)} on each item and draw more noise samples"
        )
    conformal = BudgetItem("conformal", to_text(rest), "miscoverage of the conformal threshold on exchangeable scores")
    extra = [BudgetItem(i.name, to_text(a), i.note) for i, a in zip(items, amounts, strict=True)]
    return (conformal, *extra)


def amount(budget: Sequence[BudgetItem], name: str) -> Fraction:
    """Exact amount of the item called ``name``."""
    for item in budget:
        if item.name == name:
            return item.amount
    raise InputError(f"budget: no item is called {name!r}; the items are {', '.join(i.name for i in budget)}")
