"""The shape of ``certificate.json`` (schema version 1), as pydantic models.

Numbers that matter are integers, exact decimal text, or floats written twice: as hexadecimal (exact) and as a
decimal (readable). Nothing that a guarantee rests on is stored as a JSON float.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION = 1


class _Model(BaseModel):
    """Strict and closed: an unknown or wrongly typed field is an error, not a guess."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Real(_Model):
    """One IEEE double: ``hex`` is exact (``float.hex``), ``decimal`` is its shortest decimal."""

    hex: str
    decimal: str

    @model_validator(mode="after")
    def _agree(self) -> Real:
        try:
            first, second = float.fromhex(self.hex), float(self.decimal)
        except (ValueError, OverflowError):
            raise ValueError(f"{self.hex!r} / {self.decimal!r} is not a number") from None
        if first != second:
            raise ValueError(f"hex {self.hex} and decimal {self.decimal} are different numbers")
        if (self.hex, self.decimal) != (first.hex(), repr(first)):
            raise ValueError(f"hex {self.hex} and decimal {self.decimal} are spelled {first.hex()} and {first!r}")
        return self

    @property
    def value(self) -> float:
        return float.fromhex(self.hex)

    @classmethod
    def of(cls, value: float) -> Real:
        number = float(value)
        if math.isnan(number):
            raise ValueError("NaN cannot stand in a certificate")
        return cls(hex=number.hex(), decimal=repr(number))


Scalar = bool | int | Real | str | None


class BudgetEntry(_Model):
    name: str
    value: str
    note: str


class CalibrationTable(_Model):
    """Calibration evidence, one entry or row for each point; floats in hexadecimal."""

    labels: list[int]
    scores: list[str]
    votes: list[list[int]] | None = None
    lower: list[list[str]] | None = None
    upper: list[list[str]] | None = None
    probs: list[list[str]] | None = None
    logits: list[list[str]] | None = None
    uniforms: list[str] | None = None


class ReasoningRecord(_Model):
    """The reasoning layer. ``knowledge`` is the canonical knowledge base, ``None`` without rules."""

    circuit: Literal["none", "rules", "exclusive"]
    class_kind: Literal["binary", "categorical"]
    scale: Real
    bound: str
    knowledge: dict[str, Any] | None = None
    knowledge_digest: str | None = None


class Interval(_Model):
    lower: Real
    upper: Real
    confidence: str


class ClassRow(_Model):
    name: str
    n: int
    covered: int
    total_size: int
    interval: Interval | None = None


class CertifiedCoverage(_Model):
    """Share of evaluation points whose worst case stays on the right side of the un-enlarged threshold.

    ``delta`` is the failure probability of ``lower``; ``point_failure`` is b, that of the certificate of one point, and
    ``lower = (L - b) / (1 - b)`` with L the Clopper-Pearson lower limit.
    """

    points: int
    successes: int
    delta: str
    lower: Real
    point_failure: str = "0"
    note: str = ""


class CurvePoint(_Model):
    """One radius of the curves of the report. Missing values were not measured."""

    radius: str
    coverage: Real | None = None
    mean_size: Real | None = None
    certified: Real | None = None


class RuleUse(_Model):
    """How often a rule's premise held on the test evidence (``applied``) and how often it was broken."""

    rule: str
    weight: str
    applied: int
    violated: int
    of: int


class Metrics(_Model):
    n: int
    total_size: int
    mean_size: Real
    empty: int
    full: int
    covered: int | None = None
    coverage: Real | None = None
    interval: Interval | None = None
    per_class: list[ClassRow] = Field(default_factory=list)
    certified: CertifiedCoverage | None = None
    curve: list[CurvePoint] = Field(default_factory=list)
    rules: list[RuleUse] = Field(default_factory=list)


class ArrayRecord(_Model):
    dtype: str
    shape: list[int]
    sha256: str


class TestRecord(_Model):
    """The arrays of the file that lies beside the certificate."""

    __test__ = False  # not a test case, whatever its name suggests to a test collector
    file: str
    n: int
    arrays: dict[str, ArrayRecord]


class GuaranteeText(_Model):
    sentence: str
    assumptions: list[str]
    caveats: list[str] = Field(default_factory=list)


class Digests(_Model):
    sections: dict[str, str]
    certificate: str


class Certificate(_Model):
    """Everything that ``verify`` needs, and what a reader wants to know."""

    kind: Literal["neurosym-certificate"] = "neurosym-certificate"
    schema_version: Literal[1] = 1
    neurosym: str
    method: str
    score: str
    alpha: str
    radius: str
    norm: Literal["l2", "linf", "score"] = "l2"
    sigma: str
    trials: int
    n: int
    rank: int
    threshold: Real
    budget: list[BudgetEntry]
    derived: dict[str, Scalar | list[Scalar]]
    calibration: CalibrationTable
    reasoning: ReasoningRecord
    classes: list[str]
    predicates: list[str]
    tuning: dict[str, Any]
    metrics: Metrics
    provenance: dict[str, Any]
    guarantee: GuaranteeText
    notes: list[str]
    test: TestRecord
    digests: Digests
