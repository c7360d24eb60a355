"""Exact extrema of P(target) over boxes against all corners, their witnesses, gaps and gradients."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurosym.circuits import compile
from neurosym.circuits.boxes import conditional, enclosure, search, tables
from neurosym.circuits.boxes.box import WeightBox
from neurosym.circuits.boxes.conditional import ConditionalBounds, conditional_bounds
from neurosym.circuits.boxes.monotone import monotone_signs
from neurosym.circuits.boxes.rounding import operations, probability_slack
from neurosym.circuits.boxes.witness import check_witness, differentiable_bounds
from neurosym.circuits.circuit import Circuit
from neurosym.circuits.component import Component
from neurosym.circuits.ir import CircuitBuilder
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "oracles")]

import bounds_cases as cases  # noqa: E402
import box_extrema as oracle  # noqa: E402
import corner_oracle as corners  # noqa: E402

BLOCKS = 20
EACH = 50


def one_component(kb: KnowledgeBase) -> Component:
    (part,) = compile(kb).parts
    (component,) = part.components
    return component


def frustrated(rng: np.random.Generator) -> tuple[KnowledgeBase, np.ndarray]:
    while True:
        kb = cases.random_frustrated(rng, int(rng.integers(8, 15)))
        (table,) = oracle.mixture(kb).tables
        if table.sum() > 0:
            return kb, table


def inner_box(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Widths from 0 to 0.9, now and then a point or an end at 0 or 1."""
    lower, upper = cases.random_box(rng, size)
    if rng.random() < 0.7:
        lower, upper = np.clip(lower, 0.02, 0.98), np.clip(upper, 0.02, 0.98)
    return lower, upper


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(x))


def forced_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """No table at the start and none at the leaves."""
    monkeypatch.setattr(conditional, "_fits", lambda *_: False)
    monkeypatch.setattr(search, "MAX_TABLE_FREE", -1)


def assert_answer(
    found: ConditionalBounds, circuit: Circuit, target: int, table: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> bool:
    """The claims of one row; returns whether the box is free of impossible evidence."""
    truth = corners.extrema(table, target, lower, upper)
    low, high = float(found.lower), float(found.upper)
    if np.isnan(truth).any():
        assert (low, high, bool(found.exact)) == (0.0, 1.0, False)
        return False
    assert low <= truth[0] + 1e-15
    assert high >= truth[1] - 1e-15
    assert bool(found.exact)
    assert max(truth[0] - low, high - truth[1]) <= 1e-6
    assert max(truth[0] - low, high - truth[1]) <= float(found.gap) + 1e-12
    check = check_witness(circuit, target, tensor(lower), tensor(upper), found)
    assert bool(check.holds)
    for witness, value in ((found.witness_lower, truth[0]), (found.witness_upper, truth[1])):
        at = np.where(witness.numpy(), upper, lower)
        assert abs(corners.value_at(table, target, at) - value) <= 1e-6
    return True


@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_thousand_frustrated_rule_sets(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By tables; every fifth by branch and bound alone. Interior points never beat the bounds."""
    rng = np.random.default_rng(block)
    monotone = judged = 0
    for i in range(EACH):
        kb, table = frustrated(rng)
        component = one_component(kb)
        monotone += monotone_signs(component.variables, component.factors) is not None
        target = int(rng.integers(kb.num_predicates))
        lower, upper = inner_box(rng, kb.num_predicates)
        with monkeypatch.context() as patch:
            if i % 5 == 0:
                forced_search(patch)
            found = conditional_bounds(
                component.circuit, target, tensor(lower), tensor(upper), budget=1 << 15, tolerance=1e-7
            )
        if not assert_answer(found, component.circuit, target, table, lower, upper):
            continue
        judged += 1
        inside = lower + rng.random((16, len(lower))) * (upper - lower)
        values = np.array([corners.value_at(table, target, p) for p in inside[:2]])
        assert (values >= float(found.lower) - 1e-15).all()
        assert (values <= float(found.upper) + 1e-15).all()
    assert monotone <= EACH // 10
    assert judged > EACH // 2


@pytest.mark.parametrize("search_only", [False, True])
def test_batches_and_all_targets(search_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    if search_only:
        forced_search(monkeypatch)
    for _ in range(3):
        kb, table = frustrated(rng)
        circuit = one_component(kb).circuit
        boxes = [inner_box(rng, kb.num_predicates) for _ in range(6)]
        lower, upper = (tensor(np.array(x).reshape(2, 3, -1)) for x in zip(*boxes, strict=True))
        found = conditional_bounds(circuit, None, lower, upper, budget=1 << 15)
        assert found.lower.shape == (2, 3, kb.num_predicates)
        assert found.witness_upper.shape == (2, 3, kb.num_predicates, kb.num_predicates)
        some = conditional_bounds(circuit, [1, 0], lower, upper, budget=1 << 15)
        assert torch.equal(some.lower, found.lower[..., [1, 0]])
        check = check_witness(circuit, None, lower, upper, found)
        assert bool((check.holds | ~torch.isfinite(found.gap)).all())
        for n, (low, high) in enumerate(boxes):
            for target in range(kb.num_predicates):
                one = ConditionalBounds(
                    *(
                        getattr(found, name)[n // 3, n % 3, target]
                        for name in ("lower", "upper", "exact", "witness_lower", "witness_upper", "nodes", "gap")
                    )
                )
                assert_answer(one, circuit, target, table, low, high)


def test_few_of_many_variables_move() -> None:
    """A ring of 30 exclusions of which 9 move: tables below each node, against the circuit at every corner."""
    size, rng = 30, np.random.default_rng(3)
    rules = [f"p{i} -> ~p{(i + 1) % size} @ {rng.uniform(0.5, 3)}" for i in range(size)]
    rules += [f"p{i} & p{i + 3} -> p{i + 1} @ 2" for i in range(0, size - 3, 4)]
    component = one_component(cases.knowledge("p0 p1", " ".join(f"p{i}" for i in range(2, size)), *rules))
    lower = tensor(rng.uniform(0.1, 0.5, (3, size)))
    upper = lower.clone()
    moving = rng.choice(size, 9, replace=False)
    upper[:, moving] += 0.4
    target = int(moving[0])
    found = conditional_bounds(component.circuit, target, lower, upper)
    bits = torch.from_numpy((np.arange(512)[:, None] >> np.arange(9)) & 1 > 0)
    up = torch.zeros((512, 1, size), dtype=torch.bool)
    up[:, 0, moving] = bits
    values = component.circuit.marginals(*(torch.where(up, a, b) for a, b in ((upper, lower), (1 - upper, 1 - lower))))
    torch.testing.assert_close(found.lower, values[..., target].amin(dim=0), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.upper, values[..., target].amax(dim=0), rtol=0, atol=1e-12)
    assert bool(found.exact.all())
    assert bool(check_witness(component.circuit, target, lower, upper, found).holds.all())


def test_stopping_early_leaves_a_sound_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    forced_search(monkeypatch)
    open_ends = 0
    for _ in range(12):
        kb, table = frustrated(rng)
        circuit = one_component(kb).circuit
        lower = rng.uniform(0.05, 0.5, kb.num_predicates)
        upper = lower + 0.4
        truth = corners.extrema(table, 0, lower, upper)
        for budget in (1, 4, 16):
            found = conditional_bounds(circuit, 0, tensor(lower), tensor(upper), budget=budget)
            low, high, gap = float(found.lower), float(found.upper), float(found.gap)
            assert low <= truth[0]
            assert high >= truth[1]
            assert max(truth[0] - low, high - truth[1]) <= gap + 1e-12
            assert bool(found.exact) == (gap <= 1e-6)
            assert bool(check_witness(circuit, 0, tensor(lower), tensor(upper), found).holds)
            open_ends += gap > 1e-3
    assert open_ends > 5


def test_more_than_twenty_moving_sensors() -> None:
    """A ring of 24 that all move: narrow boxes are nearly closed, wide ones keep a gap; random corners stay inside."""
    size, rng = 24, np.random.default_rng(1)
    rules = [f"p{i} -> ~p{(i + 1) % size} @ 1.5" for i in range(size)] + ["p0 & p8 -> p16 @ 2"]
    component = one_component(cases.knowledge("p0 p1", " ".join(f"p{i}" for i in range(2, size)), *rules))
    lower = tensor(rng.uniform(0.2, 0.6, (2, size)))
    upper = lower + torch.tensor([[0.001], [0.2]])
    found = conditional_bounds(component.circuit, 3, lower, upper, budget=300)
    assert float(found.gap[0]) < 1e-4
    assert not bool(found.exact[1])
    flips = torch.from_numpy(rng.random((400, 1, size)) < 0.5)
    p = torch.where(flips, lower, upper)
    values = component.circuit.marginals(p, 1 - p)[..., 3]
    assert bool((values >= found.lower).all())
    assert bool((values <= found.upper).all())
    assert bool(check_witness(component.circuit, 3, lower, upper, found).holds.all())
    assert bool((found.nodes <= 2 * 300 + 64).all())


@pytest.mark.parametrize("search_only", [False, True])
def test_degenerate_boxes(search_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if search_only:
        forced_search(monkeypatch)
    rng = np.random.default_rng(5)
    soft = cases.knowledge("a b", "c d", "a & b -> c @ 2", "c -> ~d @ 1", "b -> d @ 3", "a | d -> ~b & c @ 0.7")
    (table,) = oracle.mixture(soft).tables
    circuit = one_component(soft).circuit
    point = rng.random(4)
    found = conditional_bounds(circuit, None, tensor(point), tensor(point))
    value = circuit.marginals(tensor(point), 1 - tensor(point))
    assert float((found.upper - found.lower).max()) < 1e-8
    assert bool((found.lower <= value + 1e-12).all() & (value <= found.upper + 1e-12).all())
    for lower, upper in (
        (np.zeros(4), np.ones(4)),
        (np.array([0, 0, 1, 0.2]), np.array([0, 1, 1, 0.3])),
        (np.array([1.0, 1, 0, 1]), np.array([1.0, 1, 1, 1])),
    ):
        for target in range(4):
            low, high = corners.extrema(table, target, lower, upper)
            got = conditional_bounds(circuit, target, tensor(lower), tensor(upper))
            assert bool(got.exact) or search_only
            assert float(got.lower) <= low
            assert float(got.upper) >= high
            if bool(got.exact):
                assert float(got.lower) == pytest.approx(low, abs=1e-9)
                assert float(got.upper) == pytest.approx(high, abs=1e-9)


def test_impossible_evidence_is_seen() -> None:
    """a -> b & c -> d, hard: whether a box reaches a point without a world is decided, not guessed."""
    hard = cases.knowledge("a", "b c d", "a -> b @ inf", "b -> c | d @ inf", "c -> ~d @ inf")
    circuit = one_component(hard).circuit
    clear = ([0.5, 0.1, 0.1, 0.1], [0.99, 0.9, 0.9, 0.9])
    clash = ([0.5, 0.0, 0.1, 0.1], [1.0, 0.9, 0.9, 0.9])
    both = ([0.2, 0.2, 0.0, 0.0], [0.9, 1.0, 1.0, 1.0])
    fine = ([0.0, 0.0, 0.0, 0.1], [0.0, 1.0, 1.0, 0.9])
    lower, upper = (torch.tensor(x, dtype=torch.float64) for x in zip(clear, clash, both, fine, strict=True))
    found = conditional_bounds(circuit, None, lower, upper)
    assert torch.isfinite(found.gap).all(dim=1).tolist() == [True, False, False, True]
    for row in (1, 2):
        assert found.lower[row].tolist() == [0.0] * 4
        assert found.upper[row].tolist() == [1.0] * 4
        assert not found.exact[row].any()
        assert not check_witness(circuit, None, lower, upper, found).holds[row].any()
    with pytest.raises(InputError, match="row 1: the box may contain evidence"):
        differentiable_bounds(circuit, 0, lower, upper)


def test_boxes_of_both_weights() -> None:
    """Weights of both literals in intervals of their own, against all 4^m corners."""
    rng = np.random.default_rng(9)
    kb = cases.knowledge("a b", "c d", "a & b -> c @ 2", "c -> ~d @ 1", "b -> d @ 3", "a | d -> ~b & c @ 0.7")
    circuit = one_component(kb).circuit
    for _ in range(5):
        ends = np.sort(rng.uniform(0, 5, (2, 2, 4)), axis=1)
        low, high, neg_low, neg_high = (tensor(x) for x in (ends[0, 0], ends[0, 1], ends[1, 0], ends[1, 1]))
        found = conditional_bounds(circuit, None, low, high, neg_lower=neg_low, neg_upper=neg_high)
        bits = torch.from_numpy((np.arange(256)[:, None] >> np.arange(8)) & 1 > 0)
        values = circuit.marginals(torch.where(bits[:, :4], low, high), torch.where(bits[:, 4:], neg_low, neg_high))
        torch.testing.assert_close(found.lower, values.amin(dim=0), rtol=0, atol=1e-12)
        torch.testing.assert_close(found.upper, values.amax(dim=0), rtol=0, atol=1e-12)
        check = check_witness(circuit, None, low, high, found, neg_lower=neg_low, neg_upper=neg_high)
        assert bool(check.holds.all())


def test_tiny_weights_do_not_fool_the_tables() -> None:
    """Worlds of weight e^-650 are too small for a table to rely on; logarithms take over."""
    kb = cases.knowledge("a", "b c", "a -> b @ 400", "b -> c @ 600", "a -> ~c @ 300", "a & b @ 250")
    circuit = one_component(kb).circuit
    lower = torch.tensor([[1.0, 0.2, 0.3], [1.0, 0.0, 0.0]], dtype=torch.float64)
    upper = torch.tensor([[1.0, 0.9, 0.8], [1.0, 0.0, 0.0]], dtype=torch.float64)
    found = conditional_bounds(circuit, None, lower, upper)
    bits = torch.from_numpy((np.arange(8)[:, None] >> np.arange(3)) & 1 > 0)[:, None, :]
    p = torch.where(bits, lower, upper)
    values = circuit.marginals(p, 1 - p)
    assert bool((found.lower <= values.amin(dim=0) + 1e-12).all())
    assert bool((found.upper >= values.amax(dim=0) - 1e-12).all())
    # e^-650 in every world: no table can tell, logarithms do
    assert bool(found.exact[1].all())
    torch.testing.assert_close(found.upper[found.exact], values.amax(dim=0)[found.exact], rtol=0, atol=1e-8)


def test_a_table_agrees_with_tables_below_nodes_and_world_by_world() -> None:
    rng = np.random.default_rng(2)
    kb, table = frustrated(rng)
    circuit = one_component(kb).circuit
    worlds = tables.world_table(circuit)
    assert worlds is not None
    np.testing.assert_allclose(worlds.numpy() / worlds.max().item(), table / table.max(), rtol=1e-12)
    lower = tensor(rng.uniform(0.1, 0.4, (2, kb.num_predicates)))
    upper = lower + 0.3
    box = WeightBox(lower, 1 - lower, upper, 1 - upper, lower < upper)
    columns = [v for v in range(kb.num_predicates) if v not in (0, 3)]
    first = tables.sums_from_worlds(circuit, worlds, 3, box, columns, tables.Workspace())
    second = tables.sums_from_circuit(circuit, 3, box, columns)
    torch.testing.assert_close(first.on.flatten(1), second.on.flatten(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(first.off.flatten(1), second.off.flatten(1), rtol=1e-12, atol=0)
    assert first.columns == second.columns == tuple(columns)


def test_gradients_through_the_witness() -> None:
    """Against finite differences of the bound itself (not of the witness), away from ties."""
    rng = np.random.default_rng(4)
    for _ in range(4):
        kb, table = frustrated(rng)
        size = kb.num_predicates
        circuit = one_component(kb).circuit
        low, high = rng.uniform(0.1, 0.4, size), rng.uniform(0.5, 0.9, size)
        ends = [tensor(x).requires_grad_(True) for x in (low, high)]
        bottom, top = differentiable_bounds(circuit, 2, *ends)
        grads = [torch.autograd.grad(x, ends, retain_graph=True) for x in (bottom, top)]
        step = 1e-6
        for end in (0, 1):
            for i in range(size):
                moved = []
                for sign in (1, -1):
                    box = [low.copy(), high.copy()]
                    box[end][i] += sign * step
                    moved.append(corners.extrema(table, 2, *box))
                for side in (0, 1):
                    slope = (moved[0][side] - moved[1][side]) / (2 * step)
                    assert float(grads[side][end][i]) == pytest.approx(slope, abs=1e-6)
    soft = cases.knowledge("a", "b c", "a & b -> c @ 2", "c -> ~a @ 1", "b -> a @ 0.5")
    circuit = one_component(soft).circuit
    box = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in ([[0.1, 0.2, 0.3]], [[0.6, 0.5, 0.9]])]
    assert torch.autograd.gradcheck(lambda a, b: differentiable_bounds(circuit, None, a, b), box, eps=1e-6, atol=1e-6)


def test_rounding_is_counted_and_covers_what_happens() -> None:
    """Bounds of a point against fractions: a tower of sums and products of awkward numbers."""
    from fractions import Fraction

    builder = CircuitBuilder()
    node = builder.lit(0, True)
    other = builder.lit(0, False)
    for v in range(1, 10):
        on, off = builder.lit(v, True), builder.lit(v, False)
        node, other = (
            builder.disj((builder.conj((node, on)), builder.conj((other, off)))),
            builder.disj((builder.conj((node, off)), builder.conj((other, on)))),
        )
    circuit = Circuit(builder.finish(node, 10))
    assert operations(circuit.ir) >= 27
    assert probability_slack(operations(circuit.ir)) < 1e-12
    p = np.random.default_rng(0).random((20, 10))
    for row in p:
        exact = [Fraction(x) for x in row]
        yes, no = exact[0], 1 - exact[0]
        for x in exact[1:9]:
            yes, no = yes * x + no * (1 - x), yes * (1 - x) + no * x
        # given the parity of all ten, the last one is certain but for the parity of the nine before
        top, bottom = exact[9] * yes, (1 - exact[9]) * no
        truth = top / (top + bottom)
        found = conditional_bounds(circuit, 9, tensor(row), tensor(row))
        assert Fraction(float(found.lower)) <= truth <= Fraction(float(found.upper))
        assert float(found.upper - found.lower) < 1e-12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 7}, "target 7 is no variable"),
        ({"lower": [[0.1, 0.2]]}, "last dimension are the 3 variables"),
        ({"lower": [[0.1, float("nan"), 0.2]]}, "lower: row 0, column 1 is nan"),
        ({"upper": [[0.9, 0.9, 1.5]]}, "upper: row 0, column 2 is 1.5"),
        ({"upper": [[0.9, 0.05, 0.9]]}, "row 0, column 1: lower is above upper"),
        ({"neg_lower": [[0.1, 0.2, 0.3]]}, "give both neg_lower and neg_upper"),
    ],
)
def test_bad_input(change: dict, message: str) -> None:
    circuit = one_component(cases.knowledge("a", "b c", "a & b -> c")).circuit
    given = {"target": 0, "lower": [[0.1, 0.2, 0.3]], "upper": [[0.5, 0.6, 0.7]], **change}
    tensors = {k: v if k == "target" else torch.tensor(v, dtype=torch.float64) for k, v in given.items()}
    with pytest.raises(InputError) as error:
        conditional_bounds(circuit, **tensors)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_witness_is_refused() -> None:
    kb = cases.knowledge("a", "b c", "a & b -> c @ 2", "c -> ~a @ 1")
    circuit = one_component(kb).circuit
    lower, upper = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.6, 0.5, 0.9])
    found = conditional_bounds(circuit, 2, lower, upper)
    assert bool(check_witness(circuit, 2, lower, upper, found).holds)
    wrong = ConditionalBounds(
        found.lower, found.upper, found.exact, found.witness_upper, found.witness_lower, found.nodes, found.gap
    )
    assert not bool(check_witness(circuit, 2, lower, upper, wrong).holds)
    assert enclosure.FREE not in (enclosure.LOW, enclosure.HIGH)


def test_rows_whose_moving_sensors_differ_share_a_table() -> None:
    """And a batch in which no row has a world everywhere, and an empty one."""
    rng = np.random.default_rng(12)
    kb, table = frustrated(rng)
    circuit = one_component(kb).circuit
    lower = rng.uniform(0.1, 0.5, (6, kb.num_predicates))
    upper = lower + 0.3 * (rng.random(lower.shape) < 0.3)
    found = conditional_bounds(circuit, 1, tensor(lower), tensor(upper))
    for row in range(6):
        low, high = corners.extrema(table, 1, lower[row], upper[row])
        assert float(found.lower[row]) == pytest.approx(low, abs=1e-12)
        assert float(found.upper[row]) == pytest.approx(high, abs=1e-12)
    assert bool(check_witness(circuit, 1, tensor(lower), tensor(upper), found).holds.all())
    assert conditional_bounds(circuit, None, tensor(lower[:0]), tensor(upper[:0])).gap.shape == (0, kb.num_predicates)
    hard = one_component(cases.knowledge("a", "b", "a -> b @ inf")).circuit
    nothing = conditional_bounds(hard, 0, torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    assert (float(nothing.lower), float(nothing.upper), bool(nothing.exact)) == (0.0, 1.0, False)
