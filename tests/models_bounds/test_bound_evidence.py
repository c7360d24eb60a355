"""Boxes of predicate probabilities from networks: sound around clean and attacked images alike, and refused by field."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from bounded_networks import inside, networks
from torch import Tensor, nn

from neurosym.certify.bound_evidence import Bounder, answer_evidence, bound_evidence
from neurosym.certify.methods import vrcp_i
from neurosym.errors import InputError
from neurosym.models.bounds import crown
from neurosym.models.bounds.softmax_bounds import box_tables, sigmoid_range, softmax_range
from neurosym.models.data import ImageSet

NAMES = ("a", "b", "c", "x", "y", "z")


def pictures(count: int = 6) -> Tensor:
    return torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("classes", [3, 6])
@pytest.mark.parametrize("kind", ["categorical", "binary"])
@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.02), ("l2", 0.3)])
@pytest.mark.parametrize("propagation", crown.PROPAGATIONS)
def test_boxes_hold_every_point_of_the_ball(
    propagation: Any, norm: str, radius: float, kind: Any, classes: int
) -> None:
    """Around the clean image for VRCP-C; around the attacked one for VRCP-I, where the clean one must lie inside."""
    module, x = networks()["residual"], pictures(2)
    bounder = Bounder(radius, norm, propagation, kind)
    facts = {"predicates": NAMES, "num_classes": classes}
    clean = bound_evidence(module, x, bounder, **facts)
    assert clean.probs is not None
    assert np.array_equal(clean.probs, answer_evidence(module, x, kind, **facts).probs)
    points = inside(x, radius, norm, 40, True)
    answers = answer_evidence(module, points.flatten(0, 1), kind, **facts).probs.reshape(40, 2, 6)
    assert (answers >= clean.lower).all()
    assert (answers <= clean.upper).all()
    moved = bound_evidence(module, points[0] * (1 - 1e-12), bounder, **facts)  # rounding must not leave the ball
    assert (moved.lower <= clean.probs).all()
    assert (clean.probs <= moved.upper).all()
    assert not np.array_equal(moved.lower, clean.lower)  # bounds are those of the image that is given


def test_many_classes_are_bounded_by_their_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond MOST_PAIRS the differences are not bounded by themselves: looser, and still sound."""
    module, x = networks()["residual"], pictures(3)
    bounder = Bounder("0.02", "linf")
    tight = bound_evidence(module, x, bounder, predicates=NAMES, num_classes=6)
    monkeypatch.setattr("neurosym.certify.bound_evidence.MOST_PAIRS", 2)
    loose = bound_evidence(module, x, bounder, predicates=NAMES, num_classes=6)
    assert (loose.lower <= tight.lower + 1e-12).all()
    assert (loose.upper >= tight.upper - 1e-12).all()
    assert (loose.upper - loose.lower).mean() > 1.05 * (tight.upper - tight.lower).mean()


def test_softmax_of_a_box_is_its_exact_range() -> None:
    """Against all corners, in which the extremes lie."""
    rng = np.random.default_rng(0)
    low = torch.from_numpy(rng.normal(size=(20, 4)))
    high = low + torch.from_numpy(rng.random((20, 4)))
    least, most = softmax_range(*box_tables(low, high), high.abs().amax(1) + 2)
    corners = [
        torch.softmax(torch.where(torch.tensor([bool(c >> i & 1) for i in range(4)]), high, low), dim=1)
        for c in range(16)
    ]
    found = torch.stack(corners)
    assert torch.allclose(least, found.amin(0), atol=1e-12)
    assert torch.allclose(most, found.amax(0), atol=1e-12)
    assert (least <= found.amin(0)).all()
    assert (most >= found.amax(0)).all()


def test_logits_beyond_the_range_of_exp() -> None:
    """An exponential that is not shifted would give NaN here."""
    low, high = torch.tensor([[900.0, -2000.0, 5.0]]).double(), torch.tensor([[1100.0, -1000.0, 2000.0]]).double()
    least, most = softmax_range(*box_tables(low, high), high.abs().amax(1))
    assert torch.isfinite(least).all()
    assert torch.isfinite(most).all()
    assert (least >= 0).all()
    assert float(most[0, 0]) == 1.0
    assert float(most[0, 1]) < 1e-280
    assert [float(v) for v in sigmoid_range(low[:, 1], high[:, 0])] == [0.0, 1.0]


def test_batches_do_not_matter_beyond_rounding() -> None:
    module, x = networks()["conv"], pictures(6)
    names = NAMES[:5]
    made = [bound_evidence(module, x, Bounder(0.03, "linf"), predicates=names, num_classes=5, batch=b) for b in (1, 4)]
    assert np.allclose(made[0].lower, made[1].lower, atol=1e-11)
    assert np.allclose(made[0].upper, made[1].upper, atol=1e-11)


def test_tighter_bounds_give_smaller_sets() -> None:
    module, x = networks()["conv"], pictures(16)
    with torch.no_grad():  # an untrained network hardly tells images apart: spread its logits
        last = module[-1]  # type: ignore[index]
        last.bias -= module(x).mean(0)
        last.weight *= 40
        last.bias *= 40
    facts: dict[str, Any] = {"predicates": NAMES[:5], "num_classes": 5}
    labels = answer_evidence(module, x, **facts).probs.argmax(axis=1)
    sizes = []
    for propagation in crown.PROPAGATIONS:
        boxes = bound_evidence(module, x, Bounder("0.04", "linf", propagation), labels=labels, **facts)
        made = vrcp_i.calibrate(boxes, alpha="0.2", radius="0.04")
        sizes.append(vrcp_i.predict(made, vrcp_i.observe(boxes, made)).sum(axis=1).mean())
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[2]


def test_labels_come_from_the_data() -> None:
    pixels = (pictures(4).numpy() * 255).astype(np.uint8)
    data = ImageSet(pixels, np.array([0, 2, 1, 2]), np.arange(4), "four")
    facts: dict[str, Any] = {"predicates": NAMES[:5], "num_classes": 5}
    rows = np.array([3, 1])
    found = bound_evidence(networks()["conv"], data, Bounder(0, "l2"), rows=rows, **facts)
    assert np.array_equal(found.labels, [2, 2])  # type: ignore[arg-type]
    assert found.radius == 0.0
    assert (found.upper - found.lower).max() < 1e-9


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"radius": "-0.1"}, "radius: -0.1 is negative"),
    ({"norm": "l1"}, "field 'norm': 'l1'"),
    ({"propagation": "alpha"}, "propagation: 'alpha'; choose one of ibp"),
    ({"class_kind": "softmax"}, "class_kind: 'softmax'"),
]


@pytest.mark.parametrize(("changed", "text"), REFUSED)
def test_settings_refused(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        Bounder(**{"radius": "0.1", **changed})


def test_images_and_names_refused() -> None:
    module: nn.Module = networks()["conv"]
    for images, facts, text in (
        (pictures(2) + 0.5, {"predicates": NAMES[:5], "num_classes": 5}, r"outside \[0, 1\]; normalise inside"),
        (pictures(2), {"predicates": NAMES, "num_classes": 3}, "5 outputs, but 6 names"),
        (pictures(2), {}, "does not name its outputs"),
        (pictures(2)[:0], {"predicates": NAMES[:5], "num_classes": 5}, "no rows"),
    ):
        with pytest.raises(InputError, match=text):
            bound_evidence(module, images, Bounder("0.1"), **facts)
