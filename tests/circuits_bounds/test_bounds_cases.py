"""Named situations: mixtures, the sign condition, the decoupled bound, impossible evidence, bad input, search."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurosym.circuits import bounds, compile, marginals
from neurosym.circuits.boxes.box import WeightBox
from neurosym.circuits.boxes.corners import circuit_extrema, dense_extrema
from neurosym.circuits.boxes.exclusive_form import exclusive_form
from neurosym.circuits.boxes.search import search_extrema
from neurosym.circuits.boxes.simplex import extreme_share, fill
from neurosym.errors import InputError
from neurosym.logic.knowledge import CircuitSpec, Group, KnowledgeBase

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "oracles")]

import bounds_cases as cases  # noqa: E402
import box_extrema as oracle  # noqa: E402


def tensors(*rows: list[float]) -> list[torch.Tensor]:
    return [torch.tensor(row, dtype=torch.float64) for row in rows]


def test_mixture_with_opposite_signs() -> None:
    two = (CircuitSpec("one", (0,), 0.5), CircuitSpec("two", (1,), 0.5))
    kb = cases.knowledge("b", "a", "a -> b @ 4", "a -> ~b @ 4", circuits=two)
    mix = oracle.mixture(kb)
    for low, high in ((0.02, 0.9), (0.5, 0.99)):
        lower, upper = tensors([0.4, low], [0.6, high])
        found = bounds(kb, lower, upper)
        assert not found.exact[0]
        inside = np.stack(np.meshgrid(np.linspace(0.4, 0.6, 41), np.linspace(low, high, 41)), -1).reshape(-1, 2)
        values = oracle.probabilities(mix, inside)
        assert (values >= found.lower.numpy()).all()
        assert (values <= found.upper.numpy()).all()


def test_interior_point_beats_every_corner_and_is_contained() -> None:
    two = (CircuitSpec("one", (0,), 0.5), CircuitSpec("two", (1,), 0.5))
    rng = np.random.default_rng(0)
    beaten = 0
    for _ in range(60):
        w1, w2 = rng.uniform(1, 6, 2)
        kb = cases.knowledge("b", "a", f"a -> b @ {w1}", f"a -> ~b @ {w2}", circuits=two)
        pi = rng.uniform(0.05, 0.95)
        lower, upper = np.array([pi, 0.0]), np.array([pi, 1.0])
        line = np.stack([np.full(99, pi), np.linspace(0.01, 0.99, 99)], 1)
        mix = oracle.mixture(kb)
        inside, corner = (oracle.probabilities(mix, x)[:, 0] for x in (line, np.stack([lower, upper])))
        found = bounds(kb, torch.tensor(lower), torch.tensor(upper))
        beaten += inside.max() > corner.max() + 1e-4 or inside.min() < corner.min() - 1e-4
        assert not found.exact[0]
        assert inside.max() <= found.upper[0] + 1e-12
        assert inside.min() >= found.lower[0] - 1e-12
    assert beaten > 10


def test_mixture_with_agreeing_signs_is_exact() -> None:
    two = (CircuitSpec("one", (0, 2), 0.7), CircuitSpec("two", (1,), 0.3))
    kb = cases.knowledge("a b", "c d", "a -> c", "a -> d & ~b @ 2", "c -> ~b @ 3", circuits=two)
    found = bounds(kb, *tensors([0.1, 0.2, 0.3, 0.4], [0.6, 0.5, 0.5, 0.9]))
    assert found.exact.all()


def test_sign_condition_of_the_exclusive_circuit() -> None:
    same = cases.knowledge("a b c", "q", "a -> q @ 2", "b -> q @ 2")
    different = cases.knowledge("a b c", "q", "a -> q @ 2", "b -> q @ 1")
    box = tensors([0.2, 0.3, 0.1, 0.2], [0.4, 0.5, 0.6, 0.9])
    categorical = bounds(same, *box, circuit="exclusive", class_kind="categorical")
    assert categorical.exact[:3].all()
    found = bounds(different, *box, circuit="exclusive", class_kind="categorical")
    # b has rivals on both sides: neither end of q is best for all of them, so both are tried
    assert found.exact[:3].all()
    alone = bounds(different, *box, circuit="exclusive", class_kind="categorical", budget=1)
    assert alone.exact[:3].tolist() == [True, False, True]
    assert (alone.lower[1] < found.lower[1]) | (alone.upper[1] > found.upper[1])
    assert bounds(different, *box, circuit="exclusive").exact.all()
    assert bounds(different, *box, circuit="exclusive", budget=1).exact[:3].tolist() == [True, False, True]
    form = exclusive_form(compile(different, "exclusive").parts[0].components[0], 3)
    assert form is not None
    np.testing.assert_allclose(form.ell_low[:, 0], [2, 1, 0])


def test_decoupled_contains_exact_and_is_looser() -> None:
    rng = np.random.default_rng(3)
    wider = 0
    for _ in range(30):
        rules = [
            f"c{c} -> {'~' if k == 1 else ''}q{k} @ {rng.uniform(0.2, 4)}"
            for c in range(4)
            for k in range(3)
            if rng.random() < 0.6
        ]
        kb = cases.knowledge("c0 c1 c2 c3", "q0 q1 q2 extra", *(rules or ["c0 -> q0"]))
        lower, upper = (torch.tensor(x) for x in cases.random_box(rng, 8))
        exact, loose = bounds(kb, lower, upper), bounds(kb, lower, upper, bound="decoupled")
        assert exact.exact.all()
        assert (loose.lower <= exact.lower).all()
        assert (loose.upper >= exact.upper).all()
        assert loose.exact[7]
        assert (loose.lower[7], loose.upper[7]) == (lower[7], upper[7])
        wider += bool((loose.upper - loose.lower > exact.upper - exact.lower + 1e-3).any())
    assert wider > 10


def test_decoupled_equals_equation_4() -> None:
    """Stop -> octagon, yield -> octagon by hand."""
    kb = cases.knowledge("s y", "o", "s -> o", "y -> o @ 2")
    (sl, yl, ol), (sh, yh, oh) = (0.3, 0.2, 0.4), (0.6, 0.5, 0.8)

    def z(b: int, y: float, o: float) -> float:
        return sum(
            (y if m else 1 - y) * (o if k else 1 - o) * math.exp(-1.5 * (b and not k) - 2 * (m and not k))
            for m, k in itertools.product((0, 1), repeat=2)
        )

    found = bounds(kb, *tensors([sl, yl, ol], [sh, yh, oh]), bound="decoupled")
    assert found.upper[0].item() == pytest.approx(1 / (1 + (1 - sh) * z(0, yh, ol) / (sh * z(1, yl, oh))), abs=1e-9)
    assert found.lower[0].item() == pytest.approx(1 / (1 + (1 - sl) * z(0, yl, oh) / (sl * z(1, yh, ol))), abs=1e-9)


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (("a -> c", "c -> d"), "c -> d"),
        (("a -> b",), "a -> b"),
        (("a -> c & d",), "a -> c & d"),
        (("a -> c", "b -> ~c"), "b -> ~c"),
        (("c -> a",), "c -> a"),
    ],
)
def test_decoupled_refuses(rules: tuple[str, ...], named: str) -> None:
    kb = cases.knowledge("a b", "c d", *rules)
    with pytest.raises(InputError, match="bound='decoupled'") as error:
        bounds(kb, *tensors([0.1] * 4, [0.2] * 4), bound="decoupled")
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_decoupled_refuses_groups_and_the_exclusive_circuit() -> None:
    kb = cases.knowledge("a b", "c d", "a -> c", groups=(Group("shape", "at_most_one", ("c", "d")),))
    box = tensors([0.1] * 4, [0.2] * 4)
    with pytest.raises(InputError, match="shape"):
        bounds(kb, *box, bound="decoupled")
    with pytest.raises(InputError, match="exclusive"):
        bounds(kb, *box, bound="decoupled", circuit="exclusive")
    with pytest.raises(InputError, match="'tight' is unknown"):
        bounds(kb, *box, bound="tight")  # type: ignore[arg-type]


def test_impossible_evidence() -> None:
    kb = cases.knowledge("a", "b c d", "a -> b @ inf", "c -> d")
    low, high = [0.5, 0.0, 0.1, 0.2], [1.0, 0.5, 0.3, 0.4]
    found = bounds(kb, *tensors(low, high))
    assert found.exact.tolist() == [False, False, True, True]
    assert found.lower[:2].tolist() == [0, 0]
    assert found.upper[:2].tolist() == [1, 1]
    # a cannot be certain: every point of the box has a world
    found = bounds(kb, *tensors(low, [0.99, 0.5, 0.3, 0.4]))
    assert found.exact.all()
    # wide boxes on a chain: a = 1 and c = 0 clash only through b
    chain = cases.knowledge("a", "b c", "a -> b @ inf", "b -> c @ inf")
    assert not bounds(chain, *tensors([0.5, 0.2, 0.0], [1.0, 0.9, 0.5])).exact.any()
    assert bounds(chain, *tensors([0.0, 0.0, 0.4], [1.0, 1.0, 0.5])).exact.tolist() == [False] * 3
    assert bounds(chain, *tensors([0.0, 0.3, 0.4], [1.0, 0.9, 1.0])).exact.all()


def test_whole_cube() -> None:
    soft = cases.knowledge("a b", "c", "a -> c", "b -> c")
    found = bounds(soft, torch.zeros(3), torch.ones(3))
    assert found.exact.all()
    assert found.lower.tolist() == [0, 0, 0]
    assert found.upper.tolist() == [1, 1, 1]
    found = bounds(soft, torch.zeros(3), torch.ones(3), circuit="exclusive")
    assert not found.exact.any()
    sizes = bounds(soft, torch.zeros(3), torch.ones(3), circuit="exclusive", class_kind="categorical")
    assert sizes.exact[:2].all()
    assert sizes.lower.dtype == torch.float64


def test_predicates_without_rules_and_empty_batches() -> None:
    kb = cases.knowledge("a b", "c", "a -> c")
    lower, upper = torch.rand(2, 3, 3) * 0.4, torch.rand(2, 3, 3) * 0.4 + 0.5
    found = bounds(kb, lower, upper)
    assert found.lower.shape == (2, 3, 3)
    assert (found.lower[..., 1] == lower[..., 1].double()).all()
    assert (found.upper[..., 1] == upper[..., 1].double()).all()
    assert found.exact.all()
    assert bounds(kb, torch.zeros(0, 3), torch.ones(0, 3)).exact.shape == (0, 3)
    bare = KnowledgeBase(("a",), ())
    assert bounds(bare, torch.tensor([0.25]), torch.tensor([0.5])).upper.tolist() == [0.5]
    for circuit, kind in (("rules", "binary"), ("exclusive", "binary")):
        point = bounds(kb, lower, lower, circuit=circuit, class_kind=kind)
        assert (point.upper - point.lower).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        (
            [[0.1, 0.2, 0.3], [0.1, 0.9, 0.3]],
            [[0.2, 0.3, 0.4], [0.2, 0.3, 0.4]],
            "row 1, column 1: lower 0.9",
        ),
        ([[0.1, float("nan"), 0.3]], [[0.2, 0.3, 0.4]], "lower: row 0, column 1 is nan"),
        ([[0.1, 0.2, 0.3]], [[0.2, 0.3, 1.5]], "upper: row 0, column 2 is 1.5"),
        ([[0.1, 0.2]], [[0.2, 0.3]], "3 predicates"),
        ([[0.1, 0.2, 0.3]], [0.2, 0.3, 0.4], "same boxes"),
    ],
)
def test_bad_boxes(lower: list, upper: list, message: str) -> None:
    kb = cases.knowledge("a b", "c", "a -> c")
    with pytest.raises(InputError) as error:
        bounds(kb, torch.tensor(lower, dtype=torch.float64), torch.tensor(upper, dtype=torch.float64))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_box_without_a_probability_vector() -> None:
    kb = cases.knowledge("a b", "c", "a -> c")
    for low, high in (([0.7, 0.6], [0.8, 0.9]), ([0.1, 0.1], [0.3, 0.4])):
        lower, upper = tensors([*[[0.2, 0.3, 0.1], [*low, 0.1]]], [*[[0.7, 0.8, 0.5], [*high, 0.5]]])
        with pytest.raises(InputError, match="row 1: the class intervals sum to"):
            bounds(kb, lower, upper, circuit="exclusive", class_kind="categorical")
    rows = torch.softmax(torch.randn(50, 2), dim=1)
    full = torch.cat([rows, torch.full((50, 1), 0.5)], dim=1)
    point = bounds(kb, full, full, circuit="exclusive", class_kind="categorical")
    assert (point.upper - point.lower).abs().max() < 1e-9


def test_share_on_the_simplex_against_cvxpy() -> None:
    cp = pytest.importorskip("cvxpy")
    rng = np.random.default_rng(2)
    for _ in range(12):
        k = int(rng.integers(2, 6))
        centre = rng.dirichlet(np.ones(k))
        lower, upper = (
            np.clip(centre - rng.random(k) * 0.4, 0, 1),
            np.clip(centre + rng.random(k) * 0.4, 0, 1),
        )
        gain = np.exp(rng.normal(0, 2, k))
        ratio = torch.tensor(np.log(gain)[None, None, :] - np.log(gain)[None, :, None])
        for largest in (True, False):
            got = extreme_share(torch.tensor(lower[None]), torch.tensor(upper[None]), ratio, largest)[0].numpy()
            for c in range(k):
                # Charnes-Cooper: y = pi t with sum gain y = 1
                y, t = cp.Variable(k), cp.Variable(nonneg=True)
                limits = [cp.sum(y) == t, y >= lower * t, y <= upper * t, gain @ y == 1]
                aim = cp.Maximize(gain[c] * y[c]) if largest else cp.Minimize(gain[c] * y[c])
                value = cp.Problem(aim, limits).solve(solver="CLARABEL")
                assert got[c] == pytest.approx(value, abs=1e-6)


def test_fill_is_a_knapsack() -> None:
    low, high = torch.tensor([0.1, 0.0, 0.2]), torch.tensor([0.5, 0.4, 0.9])
    cost = torch.tensor([2.0, 1.0, 3.0])
    torch.testing.assert_close(fill(low, high, torch.tensor(1.0), cost), torch.tensor([0.4, 0.4, 0.2]))


@pytest.mark.parametrize("seed", range(6))
def test_search_and_corners_agree_with_the_table(seed: int) -> None:
    rng = np.random.default_rng(seed)
    done = 0
    while done < 5:
        kb = cases.random_knowledge(rng, 8)
        rows = [cases.random_box(rng, kb.num_predicates) for _ in range(4)]
        low, high = (torch.tensor(np.array(x)) for x in zip(*rows, strict=True))
        for part in compile(kb).parts:
            for component in part.components:
                at = torch.tensor(component.variables)
                box = WeightBox(low[:, at], 1 - low[:, at], high[:, at], 1 - high[:, at], low[:, at] < high[:, at])
                truth = dense_extrema(component, box)
                good = truth.exact.all(dim=1).nonzero()[:, 0]
                if good.numel() == 0:
                    continue
                box = box.take(good)
                for found in (circuit_extrema(component, box), search_extrema(component, box, 10**6)):
                    assert found.exact.all()
                    torch.testing.assert_close(found.lower, truth.lower[good], rtol=0, atol=1e-9)
                    torch.testing.assert_close(found.upper, truth.upper[good], rtol=0, atol=1e-9)
                    assert (found.lower <= truth.lower[good] + 1e-13).all()
                short = search_extrema(component, box, 1)
                assert (short.lower <= truth.lower[good]).all()
                assert (short.upper >= truth.upper[good]).all()
                done += 1


def test_large_frustrated_component_is_sound() -> None:
    """A ring of 25 exclusions: no corner enumeration, a search within a budget."""
    size = 25
    rules = [f"p{i} -> ~p{(i + 1) % size} @ 1.2" for i in range(size)]
    kb = cases.knowledge("p0 p1", " ".join(f"p{i}" for i in range(2, size)), *rules)
    rng = np.random.default_rng(0)
    lower = torch.tensor(rng.uniform(0.2, 0.6, (2, size)))
    upper = lower + 0.1
    compiled = compile(kb)
    found = bounds(compiled, lower, upper, budget=1000)
    flips = torch.tensor(rng.random((300, 1, size)) < 0.5)
    values = marginals(compiled, torch.where(flips, lower, upper))
    assert (values >= found.lower).all()
    assert (values <= found.upper).all()
    # cutsets keep far sensors from adding up: without them the width is 0.97, the sampled range is 0.17
    assert (found.upper - found.lower).max() < 0.3
