"""One object for all methods, with MAPIE's verbs: ``conformalize`` on calibration data, then ``predict_set``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neurosym.certify.evidence import NORMS, Evidence, SampleEvidence, votes_from_samples
from neurosym.certify.exact import Number, decimal
from neurosym.certify.methods import AUTO, BOXED, CATALOGUE, CHOICES, MEANS, method
from neurosym.certify.reasoning import Bound, Circuit, Reasoning
from neurosym.certify.records import Calibrated
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.certify.tuning import Tuned
    from neurosym.logic.knowledge import KnowledgeBase

EmptyPolicy = Literal["keep", "top1"]
METHOD_OPTIONS = {
    "rscp": ("cells",),
    "rscp_plus": ("cells", "holdout"),
    "cas": ("cells", "at", "band", "asymptotic"),
    "levy_prokhorov": ("rho",),
}


def fill_empty(sets: np.ndarray, preference: np.ndarray) -> np.ndarray:
    """Give each empty set its most plausible label; sets only grow, so every coverage guarantee stays."""
    filled = sets.copy()
    rows = np.flatnonzero(~sets.any(axis=1))
    filled[rows, preference[rows].argmin(axis=1)] = True
    return filled


def checked_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The further options of a method.

    Raises:
        InputError: one that ``calibrate`` of the method does not take.
    """
    known = METHOD_OPTIONS.get(name, ())
    for option in options:
        if option not in known:
            raise InputError(f"options: method {name} has no option {option!r}; it takes {', '.join(known) or 'none'}")
    return dict(options)


class RobustConformalClassifier:
    """Prediction sets that keep their coverage under l2 attacks.

    Args:
        method: a name of ``methods.CATALOGUE``.
        alpha: total error, exact decimal (text or number).
        radius: l2 radius of the attack, in the input units of ``sigma``.
        knowledge: rules over the predicates, or None.
        score: ``lac``, ``aps``, ``raps`` or ``saps``.
        circuit: ``none``, ``rules`` or ``exclusive``; ``auto`` chooses on the tuning evidence given to
            ``conformalize``, and without any takes ``exclusive`` if there are rules and ``none`` otherwise.
        sigma: expected noise; None takes that of the evidence.
        seed: of the uniforms of randomised scores and of the tuning folds.
        scale: factor on rule weights (``auto`` with tuning evidence chooses it).
        bound: ``exact`` or ``decoupled`` (colep).
        p: BinCP's share; None chooses it on tuning evidence, or takes ``bincp.DEFAULT_P``.
        trials_test: noise draws at test, those of the calibration by default.
        clean, attacked: budget items of bincp, colep, rscp_plus and cas; a twentieth of alpha each by default.
        norm: distance of the attack, ``l2`` or ``linf``, for methods on boxes; None takes that of the evidence.
        options: further options of rscp, rscp_plus, cas and levy_prokhorov, e.g. ``{"at": "test"}``; see ``calibrate`` of
            the method.
        empty: ``keep`` empty sets, or ``top1`` to give them their most plausible label (only adds labels).
    """

    def __init__(
        self,
        method: str = "bincp",
        alpha: Number = "0.1",
        radius: Number = 0,
        knowledge: KnowledgeBase | None = None,
        score: str = "lac",
        circuit: Circuit | Literal["auto"] = "auto",
        sigma: Number | None = None,
        seed: int = 0,
        *,
        scale: float = 1.0,
        bound: Bound = "exact",
        p: Number | None = None,
        trials_test: int | None = None,
        clean: Number | None = None,
        attacked: Number | None = None,
        norm: str | None = None,
        empty: EmptyPolicy = "keep",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if method not in CHOICES:
            raise InputError(f"method: {method!r}; choose one of {', '.join(CHOICES)}")
        if circuit not in ("auto", "none", "rules", "exclusive"):
            raise InputError(f"circuit: {circuit!r}; choose one of auto, none, rules, exclusive")
        if circuit in ("rules", "exclusive") and knowledge is None:
            raise InputError(f"circuit: {circuit!r} needs rules; give knowledge=KnowledgeBase.from_yaml(...)")
        if knowledge is not None and not hasattr(knowledge, "rules"):
            raise InputError(f"knowledge: {knowledge!r} is no KnowledgeBase; give KnowledgeBase.from_yaml(...)")
        if bound not in ("exact", "decoupled"):
            raise InputError(f"bound: {bound!r}; choose exact or decoupled")
        norms = CATALOGUE[method].norms if method in CATALOGUE else NORMS
        if norm is not None and norm not in norms:
            raise InputError(f"norm: {norm!r}; method {method} is proved for {' and '.join(norms)} only")
        if empty not in ("keep", "top1"):
            raise InputError(f"empty: {empty!r}; choose keep or top1")
        self.asked, self.method, self.alpha, self.radius, self.knowledge = method, method, alpha, radius, knowledge
        self.score, self.circuit, self.sigma, self.seed, self.scale = score, circuit, sigma, seed, scale
        self.bound, self.p, self.trials_test, self.empty = bound, p, trials_test, empty
        self.clean, self.attacked, self.norm = clean, attacked, norm
        self.options = checked_options(method, options or {})
        self.calibrated: Calibrated | None = None
        self.reasoning: Reasoning | None = None
        self.tuned: Tuned | None = None

    def conformalize(
        self, evidence: Evidence, y: np.ndarray | None = None, *, tuning: Evidence | None = None
    ) -> RobustConformalClassifier:
        """Calibrate; ``y`` int ``[n]`` defaults to the labels of the evidence, ``tuning`` must be other data.

        Returns:
            self; ``method`` is the chosen one where ``auto`` was asked for.

        Raises:
            InputError: what the method refuses; ``auto`` without ``tuning``.
        """
        self._check_sigma(evidence)
        p: Number | None = self.p
        self.method, self.reasoning, self.tuned = self.asked, self._fixed_layer(evidence), None
        if self.method == AUTO and tuning is None:
            raise InputError("method auto: chooses on data of its own; give tuning=, or name a method")
        open_choice = self.circuit == "auto" or self.method == AUTO or (self.method == "bincp" and p is None)
        if tuning is not None and open_choice:
            self.tuned = self._tune(tuning, evidence)
            self.method = self.tuned.method
            self.reasoning, p = self.tuned.reasoning, self.tuned.p if p is None else p
        evidence = self._readable(evidence)
        options: dict[str, Any] = {"score": self.score, "seed": self.seed, "reasoning": self.reasoning}
        if self.method in ("bincp", "colep"):
            options |= {"trials_test": self.trials_test, "clean": self.clean, "attacked": self.attacked}
        if self.method in MEANS:
            options |= self._means_options()
        if self.method == "colep":
            options["bound"] = self.bound
        if self.method == "bincp" and p is not None:
            options["p"] = p
        if self.method in BOXED:
            options["norm"] = self.norm
        if self.method == "levy_prokhorov":
            options |= self.options
        made = method(self.method).calibrate(evidence, y, alpha=self.alpha, radius=self.radius, **options)
        self.calibrated = made
        return self

    def _readable(self, evidence: Evidence) -> Evidence:
        """COLEP reads hard votes; where it was chosen they are counted from the draws."""
        if self.asked == AUTO and self.method == "colep" and isinstance(evidence, SampleEvidence):
            return votes_from_samples(evidence)
        return evidence

    def _means_options(self) -> dict[str, Any]:
        """RSCP pays for no noise draw, so it takes no items; the further options are those of the method's module."""
        found: dict[str, Any] = {"trials_test": self.trials_test}
        if self.method != "rscp" and not self.options.get("asymptotic"):
            found |= {"clean": self.clean, "attacked": self.attacked}
        return found | self.options

    def _check_sigma(self, evidence: Evidence) -> None:
        found = getattr(evidence, "sigma", None)
        if self.sigma is None or found is None:
            return
        if decimal(found, "sigma") != decimal(self.sigma, "sigma"):
            raise InputError(f"field 'sigma': {found} in the evidence, but the classifier expects {self.sigma}")

    def _fixed_layer(self, evidence: Evidence) -> Reasoning:
        circuit = self.circuit
        if circuit == "auto":
            informed = self.knowledge is not None and bool(self.knowledge.rules or self.knowledge.groups)
            circuit = "exclusive" if informed else "none"
        return Reasoning(self.knowledge, circuit, evidence.class_kind, self.scale, evidence.num_classes)

    def _tune(self, tuning: Evidence, evidence: Evidence) -> Tuned:
        from neurosym.certify.tuning import P_GRID, candidates, tune

        fixed = self._fixed_layer(evidence)
        layers: tuple[Reasoning, ...] = (fixed,)
        if self.circuit == "auto":
            layers = candidates(self.knowledge, fixed.class_kind, self.score, num_classes=fixed.num_classes)
        return tune(
            tuning,
            method=self.method,
            layers=layers,
            alpha=self.alpha,
            radius=self.radius,
            score=self.score,
            p_grid=P_GRID if self.p is None else (self.p,),
            bound=self.bound,
            trials_test=self.trials_test,
            points=evidence.n,
            seed=self.seed,
        )

    def observe(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Test statistics, arrays of ``n`` rows each (what a certificate stores beside the sets)."""
        if self.calibrated is None:
            raise InputError("predict_set: call conformalize(evidence, y) first")
        self._check_sigma(evidence)
        found: dict[str, np.ndarray] = method(self.method).observe(
            self._readable(evidence), self.calibrated, reasoning=self.reasoning, seed=self.seed
        )
        return found

    def predict_set(self, evidence: Evidence) -> np.ndarray:
        """Prediction sets, bool ``[n, K]``."""
        observation = self.observe(evidence)
        module = method(self.method)
        sets: np.ndarray = module.predict(self.calibrated, observation, reasoning=self.reasoning)
        if self.empty == "top1":
            ranks = module.preference(self.calibrated, observation, reasoning=self.reasoning)
            sets = fill_empty(sets, ranks)
        return sets


__all__ = ["RobustConformalClassifier", "fill_empty"]
