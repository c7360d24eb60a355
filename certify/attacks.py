"""An adaptive L2 attack on smoothed reasoning: projected gradients through noise, network and circuit.

Certificates are upper bounds on what an attacker can do; this attack is the lower bound to hold against them. It is
PGD (Madry et al. 2018) on an expectation over noise (Athalye et al. 2018, "Synthesizing robust adversarial
examples"; for smoothed classifiers Salman et al. 2019): the gradient is the mean over fresh Gaussian draws of the
gradient of the true label's nonconformity, taken through the reasoning layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from neurosym.certify.evidence import LEVELS
from neurosym.certify.noise import noise
from neurosym.errors import InputError
from neurosym.models.outputs import PredicateModel, as_logits, predicate_probabilities

_STREAM = 0x61747461636B  # attackers do not see the defender's draws: a noise stream of their own
_START = _STREAM + 1  # and one for random starts
_TEMPERATURE = 0.05  # width of the sigmoid that stands for a vote, in units of the score
_TINY = 1e-12
_EDGE = 0.5 / LEVELS


Nonconformity = Callable[[Tensor, Tensor], Tensor]


def lac(probabilities: Tensor, labels: Tensor) -> Tensor:
    """``1 - q[label]``: probabilities ``[..., K]``, labels int64 ``[...]``, result ``[...]`` (LAC: Sadinle, Lei,
    Wasserman 2019)."""
    return 1 - probabilities.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class _Target:
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


@dataclass(frozen=True)
class _Settings:
    radius: float
    sigma: float
    steps: int
    draws: int
    seed: int
    step_size: float
    restarts: int
    clip: bool
    passes: int

    def noises(self, images: Tensor, indices: np.ndarray, start: int) -> Tensor:
        """Scaled noise ``[b, m, C, H, W]`` of the attack's own stream, from draw ``start``."""
        shape = tuple(images.shape[1:])
        drawn = [noise(self.seed, int(i), start, self.draws, shape, stream=_STREAM) for i in indices]
        return torch.from_numpy(np.stack(drawn)).to(images.device) * self.sigma


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
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


def _norms(delta: Tensor) -> Tensor:
    """L2 norms ``[b, 1, 1, 1]`` in float64."""
    return delta.double().flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)


def _project(images: Tensor, delta: Tensor, radius: float, clip: bool) -> Tensor:
    """Perturbations in the ball and, with ``clip``, the pixel range. Clipping second never makes them longer."""
    delta = (delta.double() * (radius / _norms(delta).clamp_min(_TINY)).clamp(max=1.0)).float()
    return (images + delta).clamp(0, 1) - images if clip else delta


def _finish(images: Tensor, delta: Tensor, radius: float, clip: bool) -> Tensor:
    """``images + delta`` in float32, shrunk by rounding errors until the difference is in the ball."""
    delta = _project(images, delta, radius, clip)
    while True:
        attacked = images + delta
        if clip:
            attacked = attacked.clamp(0, 1)
        norms = _norms(attacked.double() - images.double())
        if bool((norms <= radius).all()):
            return attacked
        delta = torch.where(norms > radius, delta * (1 - 1e-6) * (radius / norms).float(), delta)


def _gradient(target: _Target, images: Tensor, delta: Tensor, labels: Tensor, noises: Tensor, passes: int) -> Tensor:
    """Gradient in ``delta`` of the mean objective, with at most ``passes`` noisy images in one pass."""
    draws = noises.shape[1]
    total = torch.zeros_like(delta)
    step = max(1, passes // len(images))
    for start in range(0, draws, step):
        variable = delta.detach().requires_grad_(True)
        noisy = (images + variable).unsqueeze(1) + noises[:, start : start + step]
        objective = target.values(noisy, labels).sum() / draws
        total += torch.autograd.grad(objective, variable)[0]
    return torch.nan_to_num(total, nan=0.0, posinf=0.0, neginf=0.0)


@torch.no_grad()
def _achieved(target: _Target, images: Tensor, labels: Tensor, noises: Tensor, passes: int) -> Tensor:
    """Objective ``[b]`` on noise that the steps did not see; hard votes decide, the surrogate breaks ties."""
    step = max(1, passes // len(images))
    soft, hard = torch.zeros(len(images)).double(), torch.zeros(len(images)).double()
    for start in range(0, noises.shape[1], step):
        noisy = images.unsqueeze(1) + noises[:, start : start + step]
        soft += target.values(noisy, labels).double().sum(dim=1).cpu()
        hard += target.values(noisy, labels, hard=True).double().sum(dim=1).cpu()
    return soft if target.threshold is None else hard + 1e-3 * soft / noises.shape[1]


def _climb(
    target: _Target, images: Tensor, labels: Tensor, indices: np.ndarray, settings: _Settings, restart: int
) -> Tensor:
    """One run of projected gradient ascent; perturbations ``[b, C, H, W]``."""
    delta = torch.zeros_like(images)
    if restart:
        shape = tuple(images.shape[1:])
        starts = [noise(settings.seed, int(i), restart, 1, shape, stream=_START)[0] for i in indices]
        direction = torch.from_numpy(np.stack(starts)).to(images.device)
        delta = (direction / _norms(direction) * settings.radius).float()
        delta = _project(images, delta, settings.radius, settings.clip)
    for step in range(settings.steps):
        # The first draws judge the restarts.
        start = (1 + restart * settings.steps + step) * settings.draws
        noises = settings.noises(images, indices, start)
        gradient = _gradient(target, images, delta, labels, noises, settings.passes)
        move = (gradient.double() / _norms(gradient).clamp_min(_TINY)).float()
        delta = _project(images, delta + settings.step_size * move, settings.radius, settings.clip)
    return delta


def pgd_l2(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    radius: float,
    reasoning: Any,
    sigma: float,
    steps: int = 20,
    draws: int = 16,
    seed: int = 0,
    step_size: float | None = None,
    restarts: int = 1,
    *,
    loss: Literal["score", "vote"] = "score",
    threshold: float | None = None,
    temperature: float = _TEMPERATURE,
    nonconformity: Nonconformity = lac,
    clip: bool = True,
    num_classes: int | None = None,
    class_kind: str | None = None,
    indices: np.ndarray | None = None,
    batch: int = 256,
) -> Tensor:
    """Images within L2 distance ``radius`` on which the smoothed, reasoned true label looks worst.

    Args:
        model: network; runs where its parameters are, and keeps its mode.
        images: float32 ``[n, C, H, W]`` in ``[0, 1]``; labels: int64 ``[n]``.
        reasoning: see :func:`differentiable`.
        sigma: standard deviation of the defender's noise.
        steps, draws, step_size, restarts: of the ascent; a step is ``2.5 radius / steps`` by default. The first run
            starts at the image, further ones at random points of the sphere.
        loss: ``"score"`` raises the mean nonconformity of the true label; ``"vote"`` lowers the share of draws with
            nonconformity <= ``threshold`` (the votes of BinCP), through a sigmoid of width ``temperature``.
        nonconformity: score of class probabilities and labels; LAC by default.
        clip: keep the result in ``[0, 1]``. Certificates hold without it.
        indices: identities of the images for the noise; ``0 .. n-1`` by default. Results are a function of
            (seed, index) and do not depend on batches, up to rounding of the network.
        batch: noisy images in one pass.

    Returns:
        float32 ``[n, C, H, W]`` on the CPU, each within ``radius`` of its image.

    Raises:
        InputError: bad shapes or settings, ``loss="vote"`` without a threshold, an unknown number of classes.
    """
    _check(images, labels, radius, sigma, steps, draws, restarts, clip)
    if loss not in ("score", "vote") or (loss == "vote") != (threshold is not None):
        raise InputError('loss: use "score" without a threshold, or "vote" with one')
    classes = num_classes or getattr(reasoning, "num_classes", None)
    if not classes and isinstance(model, PredicateModel):
        classes = model.num_classes
    if not classes:
        raise InputError("num_classes: neither the model nor the reasoning says it; pass num_classes=")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < int(classes):
        raise InputError(f"labels: must lie in 0 .. {int(classes) - 1}")
    names = getattr(model, "predicates", None)
    kind = class_kind or getattr(reasoning, "class_kind", None) or "categorical"
    target = _Target(
        model, differentiable(reasoning, int(classes), names), int(classes), kind, nonconformity, threshold, temperature
    )
    where = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    size = 2.5 * radius / steps if step_size is None else float(step_size)
    settings = _Settings(float(radius), float(sigma), steps, draws, seed, size, restarts, clip, batch)
    rows = np.arange(len(images)) if indices is None else np.asarray(indices, dtype=np.int64)
    together = max(1, batch // draws)
    results = []
    with _evaluating(model):
        for start in range(0, len(images), together):
            part = slice(start, start + together)
            mine, true = images[part].float().to(where), labels[part].long().to(where)
            results.append(_best(target, mine, true, rows[part], settings).cpu())
    attacked = torch.cat(results) if results else images.float().cpu()
    lengths = _norms(attacked.double() - images.detach().cpu().double())
    assert bool((lengths <= radius * (1 + 1e-6)).all()), "an attack left its ball"
    return attacked


def _best(target: _Target, images: Tensor, labels: Tensor, indices: np.ndarray, settings: _Settings) -> Tensor:
    """The restart that does best on common fresh noise; the image itself where none does better."""
    best = images.clone()
    if settings.radius == 0:
        return best
    judging = settings.noises(images, indices, 0)
    value = _achieved(target, best, labels, judging, settings.passes)
    for restart in range(settings.restarts):
        delta = _climb(target, images, labels, indices, settings, restart)
        attacked = _finish(images, delta, settings.radius, settings.clip)
        reached = _achieved(target, attacked, labels, judging, settings.passes)
        better = (reached > value).to(images.device)
        best[better] = attacked[better]
        value = torch.maximum(value, reached)
    return best


def _check(
    images: Tensor, labels: Tensor, radius: float, sigma: float, steps: int, draws: int, restarts: int, clip: bool
) -> None:
    if images.ndim != 4 or not images.dtype.is_floating_point:
        raise InputError(f"images: a float tensor [n, C, H, W] is needed, not {images.dtype} {tuple(images.shape)}")
    if labels.shape != images.shape[:1] or labels.dtype.is_floating_point:
        raise InputError(f"labels: {len(images)} integers are needed, one for each image")
    for name, value, least in (
        ("radius", radius, 0),
        ("sigma", sigma, 0),
        ("steps", steps, 1),
        ("draws", draws, 1),
        ("restarts", restarts, 1),
    ):
        if not least <= value < float("inf"):
            raise InputError(f"{name}: {value} is out of range; use at least {least}")
    if clip and images.numel() and (float(images.min()) < 0 or float(images.max()) > 1):
        raise InputError("images: pixels lie outside [0, 1]; give unnormalised images, or clip=False")
