"""What an attack raises: the true label's nonconformity, or its lost votes, on noisy copies of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, cast

import numpy as np
import torch
from torch import Tensor, nn

from neurosym.certify.attacks.ball import NORMS, Ball, Norm, norms
from neurosym.certify.evidence import LEVELS
from neurosym.certify.noise import noise
from neurosym.errors import InputError
from neurosym.models.outputs import PredicateModel, as_logits, predicate_probabilities

STREAM = 0x61747461636B  # attackers do not see the defender's draws: a noise stream of their own
TEMPERATURE = 0.05  # width of the sigmoid that stands for a vote, in units of the score
_EDGE = 0.5 / LEVELS

Nonconformity = Callable[[Tensor, Tensor], Tensor]


def lac(probabilities: Tensor, labels: Tensor) -> Tensor:
    """``1 - q[label]``: probabilities ``[..., K]``, labels int64 ``[...]``, result ``[...]`` (LAC: Sadinle, Lei,
    Wasserman 2019)."""
    return 1 - probabilities.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class Target:
    """What is maximised, as a function of noisy images."""

    model: nn.Module
    reasoning: Callable[[Tensor], Tensor]
    num_classes: int
    class_kind: str
    nonconformity: Nonconformity
    threshold: float | None
    temperature: float

    def values(self, images: Tensor, labels: Tensor, hard: bool = False) -> Tensor:
        """``[b, m]`` objective of noisy images ``[b, m, C, H, W]``; ``hard`` counts votes without the sigmoid."""
        rows, draws = images.shape[:2]
        logits = as_logits(self.model(images.flatten(0, 1)))
        p = predicate_probabilities(logits, self.num_classes, self.class_kind)
        # Stored probabilities never reach 0 or 1 (they are mid-points of a grid); nor do these, which keeps
        # circuits finite. The gradient passes straight through.
        p = p.double()
        p = p + (p.clamp(_EDGE, 1 - _EDGE) - p).detach()
        scores = self.nonconformity(self.reasoning(p), labels.repeat_interleave(draws)).reshape(rows, draws)
        if self.threshold is None:
            return scores
        if hard:
            return (scores > self.threshold).to(scores.dtype)
        return torch.sigmoid((scores - self.threshold) / self.temperature)


def differentiable(
    reasoning: Any, num_classes: int, predicates: Sequence[str] | None = None
) -> Callable[[Tensor], Tensor]:
    """Class probabilities ``[..., V] -> [..., K]`` of a reasoning layer as a differentiable function of tensors.

    Args:
        reasoning: a :class:`neurosym.certify.reasoning.Reasoning`, None for the class columns themselves, or any
            object whose ``class_probabilities`` takes and gives tensors.
        predicates: the network's outputs, where their order may differ from that of the rules.
    """
    if reasoning is None or getattr(reasoning, "circuit", None) == "none":
        # Class columns of a softmax sum to one already.
        return lambda p: p[..., :num_classes]
    if hasattr(reasoning, "compiled"):
        from neurosym.circuits import marginals

        columns = None if predicates is None else reasoning.columns(predicates)
        order = None if columns is None else torch.from_numpy(columns)

        def through_circuit(p: Tensor) -> Tensor:
            ordered = p if order is None else p[..., order.to(p.device)]
            return marginals(reasoning.compiled, ordered)[..., :num_classes]

        return through_circuit
    return cast(Callable[[Tensor], Tensor], reasoning.class_probabilities)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the former mode of each sub-module after."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        try:
            model.eval()
        except NotImplementedError:  # modules of torch.export are fixed in their mode
            modes = []
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class Options(TypedDict, total=False):
    """What all attacks take.

    draws: noise draws of one evaluation (16). seed: of noise and search (0).
    loss: ``"score"`` raises the mean nonconformity of the true label; ``"vote"`` lowers the share of draws with
        nonconformity <= ``threshold`` (the votes of BinCP), through a sigmoid of width ``temperature``.
    nonconformity: score of class probabilities and labels; LAC by default.
    clip: keep the result in ``[0, 1]`` (the default). Certificates hold without it.
    num_classes, class_kind: those of the model or the reasoning layer by default.
    indices: identities of the images for noise and search, int64 ``[n]``; ``0 .. n-1`` by default. Results are a
        function of (seed, index) and do not depend on batches, up to rounding of the network.
    batch: noisy images in one pass (256).
    """

    draws: int
    seed: int
    loss: Literal["score", "vote"]
    threshold: float | None
    temperature: float
    nonconformity: Nonconformity
    clip: bool
    num_classes: int | None
    class_kind: str | None
    indices: np.ndarray | None
    batch: int


@dataclass(frozen=True)
class Problem:
    """One batch of images under attack.

    Attributes:
        images: float32 ``[b, C, H, W]``; labels: int64 ``[b]``; indices: int64 ``[b]``.
    """

    target: Target
    ball: Ball
    images: Tensor
    labels: Tensor
    indices: np.ndarray
    sigma: float
    draws: int
    seed: int
    passes: int

    def noises(self, start: int) -> Tensor:
        """Scaled noise ``[b, m, C, H, W]`` of the attack's own stream, from draw ``start``."""
        shape = tuple(self.images.shape[1:])
        drawn = [noise(self.seed, int(i), start, self.draws, shape, stream=STREAM) for i in self.indices]
        return torch.from_numpy(np.stack(drawn)).to(self.images.device) * self.sigma

    @torch.no_grad()
    def achieved(self, images: Tensor, noises: Tensor) -> Tensor:
        """Objective ``[b]`` of attacked images; hard votes decide, the surrogate breaks ties."""
        step = max(1, self.passes // len(images))
        soft, hard = torch.zeros(len(images)).double(), torch.zeros(len(images)).double()
        for start in range(0, noises.shape[1], step):
            noisy = images.unsqueeze(1) + noises[:, start : start + step]
            soft += self.target.values(noisy, self.labels).double().sum(dim=1).cpu()
            hard += self.target.values(noisy, self.labels, hard=True).double().sum(dim=1).cpu()
        return soft if self.target.threshold is None else hard + 1e-3 * soft / noises.shape[1]


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    radius: float,
    reasoning: Any,
    sigma: float,
    norm: Norm,
    search: Callable[[Problem], Tensor],
    options: Options,
) -> Tensor:
    """``search`` on batches of images; float32 ``[n, C, H, W]`` on the CPU, each within ``radius`` of its image.

    Raises:
        InputError: bad shapes or settings, ``loss="vote"`` without a threshold, an unknown number of classes.
    """
    draws, clip, batch = options.get("draws", 16), options.get("clip", True), options.get("batch", 256)
    _check(images, labels, clip, {"radius": (radius, 0), "sigma": (sigma, 0), "draws": (draws, 1), "batch": (batch, 1)})
    if norm not in NORMS:
        raise InputError(f"norm: {norm!r}; choose one of {', '.join(NORMS)}")
    target = _target(model, labels, reasoning, options)
    ball = Ball(norm, float(radius), clip)
    where = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    given = options.get("indices")
    rows = np.arange(len(images)) if given is None else np.asarray(given, dtype=np.int64)
    together, results = max(1, batch // draws), []
    with evaluating(model):
        for start in range(0, len(images), together):
            part = slice(start, start + together)
            mine, true = images[part].float().to(where), labels[part].long().to(where)
            problem = Problem(target, ball, mine, true, rows[part], float(sigma), draws, options.get("seed", 0), batch)
            results.append(mine.cpu() if radius == 0 else search(problem).cpu())
    attacked = torch.cat(results) if results else images.float().cpu()
    lengths = norms(attacked.double() - images.detach().cpu().double(), norm)
    assert bool((lengths <= radius * (1 + 1e-6)).all()), "an attack left its ball"
    return attacked


def _target(model: nn.Module, labels: Tensor, reasoning: Any, options: Options) -> Target:
    threshold, loss = options.get("threshold"), options.get("loss", "score")
    if loss not in ("score", "vote") or (loss == "vote") != (threshold is not None):
        raise InputError('loss: use "score" without a threshold, or "vote" with one')
    classes = options.get("num_classes") or getattr(reasoning, "num_classes", None)
    if not classes and isinstance(model, PredicateModel):
        classes = model.num_classes
    if not classes:
        raise InputError("num_classes: neither the model nor the reasoning says it; pass num_classes=")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < int(classes):
        raise InputError(f"labels: must lie in 0 .. {int(classes) - 1}")
    names = getattr(model, "predicates", None)
    kind = options.get("class_kind") or getattr(reasoning, "class_kind", None) or "categorical"
    return Target(
        model,
        differentiable(reasoning, int(classes), names),
        int(classes),
        kind,
        options.get("nonconformity", lac),
        threshold,
        options.get("temperature", TEMPERATURE),
    )


def _check(images: Tensor, labels: Tensor, clip: bool, settings: dict[str, tuple[float, float]]) -> None:
    if images.ndim != 4 or not images.dtype.is_floating_point:
        raise InputError(f"images: a float tensor [n, C, H, W] is needed, not {images.dtype} {tuple(images.shape)}")
    if labels.shape != images.shape[:1] or labels.dtype.is_floating_point:
        raise InputError(f"labels: {len(images)} integers are needed, one for each image")
    for name, (value, least) in settings.items():
        in_range(name, value, least)
    if clip and images.numel() and (float(images.min()) < 0 or float(images.max()) > 1):
        raise InputError("images: pixels lie outside [0, 1]; give unnormalised images, or clip=False")


def in_range(name: str, value: float, least: float) -> None:
    """Refuses settings below ``least`` and infinite ones."""
    if not least <= value < float("inf"):
        raise InputError(f"{name}: {value} is out of range; use at least {least}")
