"""Knowledge bases compiled to circuits, evaluated in batches, with sound bounds over boxes, exact where proved.

Names are imported on first use, so importing this package costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurosym.circuits.boxes.bounds import Bounds as Bounds
    from neurosym.circuits.boxes.bounds import bounds as bounds
    from neurosym.circuits.circuit import Circuit as Circuit
    from neurosym.circuits.compile import compile as compile
    from neurosym.circuits.compile import marginals as marginals
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
    from neurosym.circuits.queries.worlds import conditionals as conditionals
    from neurosym.circuits.queries.worlds import log_wmc as log_wmc
    from neurosym.circuits.queries.worlds import mpe as mpe
    from neurosym.circuits.queries.worlds import sample as sample

_NAMES = {
    "Bounds": "boxes.bounds",
    "Circuit": "circuit",
    "CircuitLayer": "layer",
    "CompileLimit": "errors",
    "CompiledKnowledge": "component",
    "Component": "component",
    "EmFit": "learning.psdd",
    "Factor": "factors",
    "InconsistentEvidence": "errors",
    "LearnableRules": "learning.rule_weights",
    "PSDD": "learning.psdd",
    "ParametricCircuit": "learning.parametric_circuit",
    "ParametricIR": "learning.parametric",
    "Part": "component",
    "SemanticLayer": "learning.semantic_layer",
    "SemanticLoss": "learning.semantic_loss",
    "WeightFit": "learning.rule_weights",
    "bounds": "boxes.bounds",
    "circuit_digest": "formats.arrays",
    "circuit_dot": "formats.picture",
    "circuit_svg": "formats.picture",
    "compile": "compile",
    "conditionals": "queries.worlds",
    "load": "formats.npz",
    "load_circuit": "formats.arrays",
    "log_wmc": "queries.worlds",
    "marginals": "compile",
    "mpe": "queries.worlds",
    "parametric_knowledge": "learning.parametric",
    "read_nnf": "formats.nnf",
    "read_sdd": "formats.sdd",
    "sample": "queries.worlds",
    "save": "formats.npz",
    "save_circuit": "formats.arrays",
    "semantic_loss": "learning.semantic_loss",
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
