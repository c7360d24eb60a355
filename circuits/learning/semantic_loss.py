"""Semantic loss: how far probabilities are from obeying the rules.

For independent predicates with probabilities p the loss is -log P(rules hold), which is -log of the weighted model count
(Xu, Zhang, Friedman, Liang, Van den Broeck, "A Semantic Loss Function for Deep Learning with Symbolic Knowledge",
ICML 2018). It is 0 iff all worlds of positive probability obey the rules. A soft rule of weight w multiplies the
probability of a world that violates it by exp(-w).

Gradients are those of the count itself, d(-log Z)/dp_j = (B_j - A_j) / Z with A_j (B_j) the weight of the worlds with x_j
true (false): finite at p in {0, 1} whenever Z > 0. From logits, sigmoid(z) and sigmoid(-z) are both computed in double
precision, so that a saturated network (float32 sigmoid(17) is 1) still gets its gradient.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from neurosym.circuits.circuit import Circuit
from neurosym.circuits.compile import as_compiled, check_probabilities
from neurosym.circuits.component import CircuitName, ClassKind, CompiledKnowledge, working
from neurosym.circuits.errors import InconsistentEvidence
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase

Impossible = Literal["raise", "inf", "skip"]
Reduction = Literal["none", "mean", "sum"]


def semantic_loss(
    knowledge: KnowledgeBase | CompiledKnowledge | Circuit,
    p: Tensor,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    logits: bool = False,
    reduction: Reduction = "mean",
    impossible: Impossible = "raise",
) -> Tensor:
    """-log weighted model count of each row.

    Args:
        knowledge: knowledge base, the result of ``compile`` (faster when called often), or a circuit over m variables.
            A knowledge base with several circuits gets the sum of their losses, each times its share beta.
        p: probabilities float[..., V], or logits of them with ``logits=True`` (``categorical`` classes of an exclusive
            circuit: logits of one softmax).
        circuit, class_kind: as in ``compile``; ignored when compiled already, or for a circuit.
        reduction: ``mean`` over rows, ``sum``, or ``none`` for the loss of every row, float[...].
        impossible: what happens to a row whose probabilities of exactly 0 and 1 contradict hard rules (loss +inf,
            without a gradient): ``raise`` an error that names it; ``inf`` keeps the loss, with gradient 0 in that row;
            ``skip`` leaves the row out of sum and mean (0 with ``none``).

    Returns:
        Of the dtype and device of ``p``; differentiable once. 0 for no rows at all.

    Raises:
        InputError: wrong shape, NaN, a probability outside [0, 1], an unknown option.
        InconsistentEvidence: with ``impossible="raise"``.
    """
    if reduction not in ("none", "mean", "sum"):
        raise InputError(f"reduction {reduction!r} is unknown; use 'none', 'mean' or 'sum'")
    if impossible not in ("raise", "inf", "skip"):
        raise InputError(f"impossible {impossible!r} is unknown; use 'raise', 'inf' or 'skip'")
    target = knowledge if isinstance(knowledge, Circuit) else as_compiled(knowledge, circuit, class_kind)
    pos, neg = _literal_weights(target, p, logits)
    bad: list[Tensor] = []
    pos, neg = (_without_bad_rows(w, bad) for w in (pos, neg))
    loss = -_log_count(target, pos, neg)
    empty = loss.detach() == torch.inf
    bad.append(empty)
    if impossible == "raise" and bool(empty.any()):
        raise InconsistentEvidence(int(empty.reshape(-1).nonzero()[0]), "the knowledge base")
    if impossible == "skip":
        loss = torch.where(empty, torch.zeros_like(loss), loss)
    if reduction != "none":
        rows = (~empty).sum() if impossible == "skip" else torch.tensor(empty.numel(), device=empty.device)
        loss = loss.sum() / (rows.clamp_min(1) if reduction == "mean" else 1)
    return loss.to(p.dtype if p.is_floating_point() else torch.get_default_dtype())


def _without_bad_rows(weights: Tensor, bad: list[Tensor]) -> Tensor:
    """The weights, whose gradient is set to 0 in the rows that ``bad`` names by the time it arrives."""
    if not weights.requires_grad:
        return weights
    weights = weights.clone()
    weights.register_hook(lambda gradient: torch.where(bad[0][..., None], torch.zeros_like(gradient), gradient))
    return weights


def _log_count(target: CompiledKnowledge | Circuit, pos: Tensor, neg: Tensor) -> Tensor:
    """log Z, or the mean of log Z over the circuits of a mixture, weighted by their shares; [...]."""
    if isinstance(target, Circuit):
        return target.log_wmc(pos, neg)
    total = torch.zeros(pos.shape[:-1], dtype=pos.dtype, device=pos.device)
    for part in target.parts:
        own = torch.full_like(total, part.log_constant)
        for component in part.components:
            own = own + component.circuit.log_wmc(component.columns.take(pos), component.columns.take(neg))
        total = total + part.beta * own
    return total


def _literal_weights(target: CompiledKnowledge | Circuit, p: Tensor, logits: bool) -> tuple[Tensor, Tensor]:
    """Weights of positive and negative literals [..., V] in working precision."""
    width = target.num_variables if isinstance(target, Circuit) else target.kb.num_predicates
    if not logits:
        p = working(check_probabilities(p, width))
        return (p, 1.0 - p) if isinstance(target, Circuit) else target.literal_weights(p)
    if p.ndim == 0 or p.shape[-1] != width:
        raise InputError(f"p has shape {tuple(p.shape)}; its last dimension must be the {width} predicates")
    if bool(p.detach().isnan().any()):
        row = int(p.detach().reshape(-1, width).isnan().any(dim=-1).nonzero()[0])
        raise InputError(f"p: row {row} has a logit that is NaN; lower the learning rate or check the network")
    z = working(p)
    pos, neg = torch.sigmoid(z), torch.sigmoid(-z)
    if isinstance(target, Circuit) or target.circuit != "exclusive" or target.class_kind != "categorical":
        return pos, neg
    k = target.kb.num_classes
    classes = torch.softmax(z[..., :k], dim=-1)
    return torch.cat([classes, pos[..., k:]], dim=-1), torch.cat([torch.ones_like(classes), neg[..., k:]], dim=-1)


class SemanticLoss(nn.Module):
    """:func:`semantic_loss` as a module: compiled once, no parameters, nothing in the state dict.

    Args:
        knowledge, circuit, class_kind, logits, reduction, impossible: as there.
    """

    def __init__(
        self,
        knowledge: KnowledgeBase | CompiledKnowledge | Circuit,
        circuit: CircuitName = "rules",
        class_kind: ClassKind = "binary",
        *,
        logits: bool = False,
        reduction: Reduction = "mean",
        impossible: Impossible = "raise",
    ) -> None:
        super().__init__()
        self.target = knowledge if isinstance(knowledge, Circuit) else as_compiled(knowledge, circuit, class_kind)
        self.options: dict[str, Any] = {"logits": logits, "reduction": reduction, "impossible": impossible}

    def forward(self, p: Tensor) -> Tensor:
        """The loss of probabilities (or logits) [..., V]; see :func:`semantic_loss`."""
        return semantic_loss(self.target, p, **self.options)

    def extra_repr(self) -> str:
        """Options, for ``print(model)``."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())
