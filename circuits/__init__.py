"""Knowledge bases compiled to circuits, evaluated in batches, with sound bounds over boxes, exact where proved.

Names are imported on first use, so importing this package costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurosym.circuits.boxes.argmax import CertifiedArgmax as CertifiedArgmax
    from neurosym.circuits.boxes.argmax import certified_argmax as certified_argmax
    from neurosym.circuits.boxes.bounds import Bounds as Bounds
    from neurosym.circuits.boxes.bounds import bounds as bounds
    from neurosym.circuits.boxes.conditional import ConditionalBounds as ConditionalBounds
    from neurosym.circuits.boxes.conditional import conditional_bounds as conditional_bounds
    from neurosym.circuits.boxes.witness import WitnessCheck as WitnessCheck
    from neurosym.circuits.boxes.witness import check_witness as check_witness
    from neurosym.circuits.boxes.witness import differentiable_bounds as differentiable_bounds
    from neurosym.circuits.circuit import Circuit as Circuit
    from neurosym.circuits.compile import compile as compile
    from neurosym.circuits.compile import marginals as marginals
    from neurosym.circuits.compilers.clauses import Cnf as Cnf
    from neurosym.circuits.compilers.expand import terms_of_ir as terms_of_ir
    from neurosym.circuits.compilers.portfolio import CompiledCnf as CompiledCnf
    from neurosym.circuits.compilers.portfolio import compile_cnf as compile_cnf
    from neurosym.circuits.compilers.terms import DisjointTerms as DisjointTerms
    from neurosym.circuits.compilers.terms import find_terms as find_terms
    from neurosym.circuits.component import CompiledKnowledge as CompiledKnowledge
    from neurosym.circuits.component import Component as Component
    from neurosym.circuits.component import Part as Part
    from neurosym.circuits.errors import CompileLimit as CompileLimit
    from neurosym.circuits.errors import InconsistentEvidence as InconsistentEvidence
    from neurosym.circuits.factors import Factor as Factor
    from neurosym.circuits.formats.arrays import circuit_digest as circuit_digest
    from neurosym.circuits.formats.arrays import load_circuit as load_circuit
    from neurosym.circuits.formats.arrays import save_circuit as save_circuit
    from neurosym.circuits.formats.nnf import read_nnf as read_nnf
    from neurosym.circuits.formats.nnf import write_nnf as write_nnf
    from neurosym.circuits.formats.npz import load as load
    from neurosym.circuits.formats.npz import save as save
    from neurosym.circuits.formats.picture import circuit_dot as circuit_dot
    from neurosym.circuits.formats.picture import circuit_svg as circuit_svg
    from neurosym.circuits.formats.sdd import read_sdd as read_sdd
    from neurosym.circuits.formats.sdd import write_sdd as write_sdd
    from neurosym.circuits.layer import CircuitLayer as CircuitLayer
    from neurosym.circuits.learning.parametric import ParametricIR as ParametricIR
    from neurosym.circuits.learning.parametric import parametric_knowledge as parametric_knowledge
    from neurosym.circuits.learning.parametric import with_edge_parameters as with_edge_parameters
    from neurosym.circuits.learning.parametric_circuit import ParametricCircuit as ParametricCircuit
    from neurosym.circuits.learning.psdd import PSDD as PSDD
    from neurosym.circuits.learning.psdd import EmFit as EmFit
    from neurosym.circuits.learning.rule_weights import LearnableRules as LearnableRules
    from neurosym.circuits.learning.rule_weights import WeightFit as WeightFit
    from neurosym.circuits.learning.semantic_layer import SemanticLayer as SemanticLayer
    from neurosym.circuits.learning.semantic_loss import SemanticLoss as SemanticLoss
    from neurosym.circuits.learning.semantic_loss import semantic_loss as semantic_loss
    from neurosym.circuits.queries.algebraic import evaluate_semiring as evaluate_semiring
    from neurosym.circuits.queries.exact import SemiringDerivatives as SemiringDerivatives
    from neurosym.circuits.queries.exact import circuit_exact_marginals as circuit_exact_marginals
    from neurosym.circuits.queries.exact import circuit_exact_wmc as circuit_exact_wmc
    from neurosym.circuits.queries.exact import exact_marginals as exact_marginals
    from neurosym.circuits.queries.exact import exact_wmc as exact_wmc
    from neurosym.circuits.queries.exact import model_count as model_count
    from neurosym.circuits.queries.exact import semiring_derivatives as semiring_derivatives
    from neurosym.circuits.queries.information import circuit_cross_entropy as circuit_cross_entropy
    from neurosym.circuits.queries.information import circuit_entropy as circuit_entropy
    from neurosym.circuits.queries.information import circuit_joint_distribution as circuit_joint_distribution
    from neurosym.circuits.queries.information import circuit_kl_divergence as circuit_kl_divergence
    from neurosym.circuits.queries.information import circuit_mutual_information as circuit_mutual_information
    from neurosym.circuits.queries.information import cross_entropy as cross_entropy
    from neurosym.circuits.queries.information import entropy as entropy
    from neurosym.circuits.queries.information import joint_distribution as joint_distribution
    from neurosym.circuits.queries.information import kl_divergence as kl_divergence
    from neurosym.circuits.queries.information import mutual_information as mutual_information
    from neurosym.circuits.queries.joined import part_circuit as part_circuit
    from neurosym.circuits.queries.kbest import KBest as KBest
    from neurosym.circuits.queries.kbest import circuit_k_best as circuit_k_best
    from neurosym.circuits.queries.kbest import k_best as k_best
    from neurosym.circuits.queries.linear import circuit_covariance as circuit_covariance
    from neurosym.circuits.queries.linear import circuit_expectation as circuit_expectation
    from neurosym.circuits.queries.linear import covariance as covariance
    from neurosym.circuits.queries.linear import expectation as expectation
    from neurosym.circuits.queries.linear import variance as variance
    from neurosym.circuits.queries.sampling import circuit_log_evidence as circuit_log_evidence
    from neurosym.circuits.queries.sampling import circuit_log_probability as circuit_log_probability
    from neurosym.circuits.queries.sampling import circuit_log_weight as circuit_log_weight
    from neurosym.circuits.queries.sampling import circuit_mpe as circuit_mpe
    from neurosym.circuits.queries.sampling import circuit_sample as circuit_sample
    from neurosym.circuits.queries.semirings import BOOLEAN as BOOLEAN
    from neurosym.circuits.queries.semirings import COUNTING as COUNTING
    from neurosym.circuits.queries.semirings import COUNTING_TO_BOOLEAN as COUNTING_TO_BOOLEAN
    from neurosym.circuits.queries.semirings import COUNTING_TO_RATIONAL as COUNTING_TO_RATIONAL
    from neurosym.circuits.queries.semirings import DUAL as DUAL
    from neurosym.circuits.queries.semirings import INTERVAL as INTERVAL
    from neurosym.circuits.queries.semirings import LOG as LOG
    from neurosym.circuits.queries.semirings import LOG_TO_MAX_LOG as LOG_TO_MAX_LOG
    from neurosym.circuits.queries.semirings import LOG_TO_REAL as LOG_TO_REAL
    from neurosym.circuits.queries.semirings import MAX_LOG as MAX_LOG
    from neurosym.circuits.queries.semirings import MAX_PRODUCT as MAX_PRODUCT
    from neurosym.circuits.queries.semirings import MAX_PRODUCT_TO_MAX_LOG as MAX_PRODUCT_TO_MAX_LOG
    from neurosym.circuits.queries.semirings import MIN_PLUS as MIN_PLUS
    from neurosym.circuits.queries.semirings import RATIONAL as RATIONAL
    from neurosym.circuits.queries.semirings import RATIONAL_TO_REAL as RATIONAL_TO_REAL
    from neurosym.circuits.queries.semirings import REAL as REAL
    from neurosym.circuits.queries.semirings import REAL_TO_BOOLEAN as REAL_TO_BOOLEAN
    from neurosym.circuits.queries.semirings import REAL_TO_INTERVAL as REAL_TO_INTERVAL
    from neurosym.circuits.queries.semirings import REAL_TO_LOG as REAL_TO_LOG
    from neurosym.circuits.queries.semirings import REAL_TO_MAX_PRODUCT as REAL_TO_MAX_PRODUCT
    from neurosym.circuits.queries.semirings import REAL_TO_RATIONAL as REAL_TO_RATIONAL
    from neurosym.circuits.queries.semirings import Morphism as Morphism
    from neurosym.circuits.queries.semirings import Semiring as Semiring
    from neurosym.circuits.queries.semirings import dual as dual
    from neurosym.circuits.queries.worlds import MostProbable as MostProbable
    from neurosym.circuits.queries.worlds import conditionals as conditionals
    from neurosym.circuits.queries.worlds import log_evidence as log_evidence
    from neurosym.circuits.queries.worlds import log_probability as log_probability
    from neurosym.circuits.queries.worlds import log_wmc as log_wmc
    from neurosym.circuits.queries.worlds import mpe as mpe
    from neurosym.circuits.queries.worlds import sample as sample

_NAMES = {
    "BOOLEAN": "queries.semirings",
    "Bounds": "boxes.bounds",
    "COUNTING": "queries.semirings",
    "COUNTING_TO_BOOLEAN": "queries.semirings",
    "COUNTING_TO_RATIONAL": "queries.semirings",
    "CertifiedArgmax": "boxes.argmax",
    "Circuit": "circuit",
    "CircuitLayer": "layer",
    "Cnf": "compilers.clauses",
    "CompileLimit": "errors",
    "CompiledCnf": "compilers.portfolio",
    "CompiledKnowledge": "component",
    "Component": "component",
    "ConditionalBounds": "boxes.conditional",
    "DUAL": "queries.semirings",
    "DisjointTerms": "compilers.terms",
    "EmFit": "learning.psdd",
    "Factor": "factors",
    "INTERVAL": "queries.semirings",
    "InconsistentEvidence": "errors",
    "KBest": "queries.kbest",
    "LOG": "queries.semirings",
    "LOG_TO_MAX_LOG": "queries.semirings",
    "LOG_TO_REAL": "queries.semirings",
    "LearnableRules": "learning.rule_weights",
    "MAX_LOG": "queries.semirings",
    "MAX_PRODUCT": "queries.semirings",
    "MAX_PRODUCT_TO_MAX_LOG": "queries.semirings",
    "MIN_PLUS": "queries.semirings",
    "Morphism": "queries.semirings",
    "MostProbable": "queries.worlds",
    "PSDD": "learning.psdd",
    "ParametricCircuit": "learning.parametric_circuit",
    "ParametricIR": "learning.parametric",
    "Part": "component",
    "RATIONAL": "queries.semirings",
    "RATIONAL_TO_REAL": "queries.semirings",
    "REAL": "queries.semirings",
    "REAL_TO_BOOLEAN": "queries.semirings",
    "REAL_TO_INTERVAL": "queries.semirings",
    "REAL_TO_LOG": "queries.semirings",
    "REAL_TO_MAX_PRODUCT": "queries.semirings",
    "REAL_TO_RATIONAL": "queries.semirings",
    "SemanticLayer": "learning.semantic_layer",
    "SemanticLoss": "learning.semantic_loss",
    "Semiring": "queries.semirings",
    "SemiringDerivatives": "queries.exact",
    "WeightFit": "learning.rule_weights",
    "WitnessCheck": "boxes.witness",
    "bounds": "boxes.bounds",
    "certified_argmax": "boxes.argmax",
    "check_witness": "boxes.witness",
    "circuit_covariance": "queries.linear",
    "circuit_cross_entropy": "queries.information",
    "circuit_digest": "formats.arrays",
    "circuit_dot": "formats.picture",
    "circuit_entropy": "queries.information",
    "circuit_exact_marginals": "queries.exact",
    "circuit_exact_wmc": "queries.exact",
    "circuit_expectation": "queries.linear",
    "circuit_joint_distribution": "queries.information",
    "circuit_k_best": "queries.kbest",
    "circuit_kl_divergence": "queries.information",
    "circuit_log_evidence": "queries.sampling",
    "circuit_log_probability": "queries.sampling",
    "circuit_log_weight": "queries.sampling",
    "circuit_mpe": "queries.sampling",
    "circuit_mutual_information": "queries.information",
    "circuit_sample": "queries.sampling",
    "circuit_svg": "formats.picture",
    "compile": "compile",
    "compile_cnf": "compilers.portfolio",
    "conditional_bounds": "boxes.conditional",
    "conditionals": "queries.worlds",
    "covariance": "queries.linear",
    "cross_entropy": "queries.information",
    "differentiable_bounds": "boxes.witness",
    "dual": "queries.semirings",
    "entropy": "queries.information",
    "evaluate_semiring": "queries.algebraic",
    "exact_marginals": "queries.exact",
    "exact_wmc": "queries.exact",
    "expectation": "queries.linear",
    "find_terms": "compilers.terms",
    "joint_distribution": "queries.information",
    "k_best": "queries.kbest",
    "kl_divergence": "queries.information",
    "load": "formats.npz",
    "load_circuit": "formats.arrays",
    "log_evidence": "queries.worlds",
    "log_probability": "queries.worlds",
    "log_wmc": "queries.worlds",
    "marginals": "compile",
    "model_count": "queries.exact",
    "mpe": "queries.worlds",
    "mutual_information": "queries.information",
    "parametric_knowledge": "learning.parametric",
    "part_circuit": "queries.joined",
    "read_nnf": "formats.nnf",
    "read_sdd": "formats.sdd",
    "sample": "queries.worlds",
    "save": "formats.npz",
    "save_circuit": "formats.arrays",
    "semantic_loss": "learning.semantic_loss",
    "semiring_derivatives": "queries.exact",
    "terms_of_ir": "compilers.expand",
    "variance": "queries.linear",
    "with_edge_parameters": "learning.parametric",
    "write_nnf": "formats.nnf",
    "write_sdd": "formats.sdd",
}


class _Package(ModuleType):
    """``compile`` names a function here and a file: importing the file must not hide the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _NAMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
