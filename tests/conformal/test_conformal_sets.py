"""Sets of large tables against the scores of ``certify.scores`` and against rational arithmetic."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from conformal_cases import draw_labels, score_by_hand, softmax_rows, tied_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from neurosym.certify import scores as reference
from neurosym.certify.conformal import Score, class_sets, device, label_scores, prediction_sets, row_uniforms
from neurosym.certify.conformal import arrays as arrays_module
from neurosym.certify.conformal.rules import KINDS, every_score
from neurosym.certify.conformal.sets import lac_cut
from neurosym.errors import InputError

CLASSES = (1, 2, 3, 10, 63, 64, 65, 129, 200)


def _tables(classes: int, dtype: type) -> list[np.ndarray]:
    peaked = softmax_rows(40, classes, seed=classes, spread=4.0, dtype=dtype)
    return [
        peaked,
        softmax_rows(40, classes, seed=classes + 1, spread=0.1, dtype=dtype),
        tied_rows(40, classes, 3, dtype),
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_scores_and_sets_as_the_reference(kind: str, classes: int, dtype: type) -> None:
    generator = np.random.default_rng(classes)
    for p in _tables(classes, dtype):
        for u in (generator.random(len(p)), generator.choice([0.0, 0.5, 1.0], len(p))):
            full = reference.score(p, kind, u)
            y = generator.integers(0, classes, len(p))
            assert np.array_equal(label_scores(p, y, kind, u), full[np.arange(len(p)), y])
            assert np.array_equal(every_score(p, u, Score(kind)), full)
            # thresholds that are themselves scores: every comparison at equality matters
            for q in (*generator.choice(full.ravel(), 6), full.min(), full.max(), np.inf, -np.inf):
                assert np.array_equal(prediction_sets(p, q, score=kind, u=u), full <= q)
            by_row = generator.choice(full.ravel(), len(p))
            assert np.array_equal(prediction_sets(p, by_row, score=kind, u=u), full <= by_row[:, None])
            by_class = generator.choice(full.ravel(), classes)
            assert np.array_equal(class_sets(p, by_class, score=kind, u=u), full <= by_class)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=7),
    st.sampled_from(KINDS),
    st.integers(0, 8),
    st.integers(0, 4),
    st.sampled_from([0.0, 0.125, 0.5]),
    st.sampled_from([0.125, 0.25]),
    st.integers(0, 24),
)
@settings(max_examples=150, deadline=None)
def test_definition_in_rational_arithmetic(
    counts: list[int], kind: str, eighths: int, free: int, penalty: float, weight: float, level: int
) -> None:
    p, u = np.array([counts]) / 32.0, eighths / 8.0
    rule = Score(kind, penalty=penalty, free=free, weight=weight)
    exact = [score_by_hand(p[0], y, kind, u, penalty, free, weight) for y in range(len(counts))]
    threshold = level / 16.0
    expected = [s <= threshold for s in exact]
    assert prediction_sets(p, threshold, score=rule, u=u)[0].tolist() == expected
    assert class_sets(p, np.full(len(counts), threshold), score=rule, u=u)[0].tolist() == expected
    found = label_scores(np.repeat(p, len(counts), 0), np.arange(len(counts)), rule, u)
    assert [float(s) for s in exact] == found.tolist()


def test_rows_near_the_threshold_are_summed_in_the_defining_order() -> None:
    # 0.1 + 0.2 + ... rounds differently in another order; each threshold is exactly some label's score
    p = np.tile(np.linspace(1.0, 2.0, 300) / 450.0, (300, 1))
    full = reference.score(p, "aps", 0.3)
    q = full[0]  # row i asks for label i's own score
    found = prediction_sets(p, q, score="aps", u=0.3)
    assert np.array_equal(found, full <= q[:, None])
    assert found[np.arange(300), np.arange(300)].all()


@pytest.mark.parametrize("kind", KINDS)
def test_kept_labels_grow_with_the_threshold_and_a_true_label_at_it_is_kept(kind: str) -> None:
    p = softmax_rows(500, 150, seed=9, dtype=np.float32)
    y, u = draw_labels(p, 1), np.random.default_rng(2).random(500)
    own = label_scores(p, y, kind, u)
    sets = prediction_sets(p, own, score=kind, u=u)
    assert sets[np.arange(500), y].all()
    less = prediction_sets(p, np.nextafter(own, -np.inf), score=kind, u=u)
    assert not less[np.arange(500), y].any()
    assert (less <= sets).all()


@pytest.mark.parametrize("kind", KINDS)
def test_torch_in_torch_out_on_cpu_and_by_the_device_code(kind: str) -> None:
    for p in (softmax_rows(80, 70, 4, dtype=np.float32), tied_rows(80, 70, 5)):
        u, y = np.random.default_rng(1).random(80), np.arange(80) % 70
        rule, tensor, full = Score(kind), torch.from_numpy(p), reference.score(p, kind, u)
        q = float(np.median(full))
        rows, by_class = np.full(80, q), np.linspace(full.min(), full.max(), 70)
        ours = prediction_sets(tensor, q, score=kind, u=torch.from_numpy(u))
        assert isinstance(ours, torch.Tensor)
        assert ours.dtype == torch.bool
        assert np.array_equal(ours.numpy(), full <= q)
        there = torch.from_numpy(u)
        assert np.array_equal(device.every_score(tensor, there, rule).numpy(), full)
        assert np.array_equal(device.label_scores(tensor, y, u, rule).numpy(), full[np.arange(80), y])
        for empty in (True, False):
            found = device.prediction_sets(tensor, rows, u, rule, empty, lac_cut).numpy()
            assert np.array_equal(found, prediction_sets(p, q, score=kind, u=u, allow_empty=empty))
            found = device.class_sets(tensor, by_class, u, rule, empty).numpy()
            assert np.array_equal(found, class_sets(p, by_class, score=kind, u=u, allow_empty=empty))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_sets_stay_on_the_device(kind: str) -> None:
    p, u = softmax_rows(300, 120, 4, dtype=np.float32), np.random.default_rng(1).random(300)
    found = prediction_sets(torch.from_numpy(p).cuda(), 0.9, score=kind, u=u)
    assert found.is_cuda
    assert np.array_equal(found.cpu().numpy(), prediction_sets(p, 0.9, score=kind, u=u))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_lac_cut_is_the_smallest_probability_that_is_kept(dtype: type) -> None:
    real = np.float64 if dtype is np.float64 else np.float32
    levels = np.array([0.0, 1e-9, 0.1, 0.3, 0.5, 1 - 2**-24, 1 - 2**-53, 1.0, 2.0, np.inf, -0.5, -2.0, -np.inf])
    for q, cut in zip(levels, lac_cut(levels, np.dtype(dtype)), strict=True):
        assert cut.dtype == real
        if np.isinf(cut):
            assert q < 1.0 - 2.0
            continue
        assert 1.0 - float(cut) <= q
        assert cut == 0 or 1.0 - float(np.nextafter(cut, real(-1))) > q


def test_half_precision_and_strided_input() -> None:
    p = softmax_rows(50, 90, 3)
    for half in (p.astype(np.float16), torch.from_numpy(p).bfloat16()):
        wide = half.astype(np.float64) if isinstance(half, np.ndarray) else half.double().numpy()
        for kind in KINDS:
            full = reference.score(wide, kind, 0.4)
            q = float(np.median(full))
            assert np.array_equal(np.asarray(prediction_sets(half, q, score=kind, u=0.4)), full <= q)
    strided = np.asfortranarray(p)[::2]
    assert np.array_equal(prediction_sets(strided, 0.8), prediction_sets(np.ascontiguousarray(strided), 0.8))


def test_never_empty_keeps_the_top_and_changes_nothing_else() -> None:
    p = np.array([[0.4, 0.4, 0.2], [0.2, 0.3, 0.5]])
    for kind in KINDS:
        assert not prediction_sets(p, -1.0, score=kind).any()
        kept = [[True, True, False], [False, False, True]]
        assert prediction_sets(p, -1.0, score=kind, allow_empty=False).tolist() == kept
        assert class_sets(p, np.full(3, -1.0), score=kind, allow_empty=False).tolist() == kept
        some = prediction_sets(p, 0.75, score=kind)
        assert np.array_equal(prediction_sets(p, 0.75, score=kind, allow_empty=False)[some.any(1)], some[some.any(1)])


def test_uniforms_depend_on_the_row_alone() -> None:
    whole = row_uniforms(50, seed=7)
    assert np.array_equal(whole, reference.uniforms(50, 7, 1))
    for start in (0, 1, 2, 3, 4, 5, 17, 48):
        assert np.array_equal(row_uniforms(50 - start, seed=7, start=start), whole[start:])
    assert not np.array_equal(whole, row_uniforms(50, seed=8))
    assert np.intersect1d(whole, row_uniforms(50, seed=7, stream=0)).size == 0


def test_results_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    p = softmax_rows(97, 65, 8, dtype=np.float32)
    u = row_uniforms(97, 3)
    whole = {kind: prediction_sets(p, 0.9, score=kind, u=u) for kind in KINDS}
    monkeypatch.setattr(arrays_module, "BLOCK_CELLS", 130)
    for kind in KINDS:
        assert np.array_equal(prediction_sets(p, 0.9, score=kind, u=u), whole[kind])


def test_memory_is_the_result_and_a_few_blocks() -> None:
    p = np.full((4000, 1000), 1e-3, dtype=np.float32)
    for kind in KINDS:
        tracemalloc.start()
        prediction_sets(p, 0.5, score=kind)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4_000_000 + 20_000_000  # 4 MB of booleans; the input has 16 MB


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"probs": np.array([[0.5, np.nan]])}, "row 0: nan is not a number"),
        ({"probs": np.array([[0.5, 0.5], [-0.1, 1.1]])}, "row 1: -0.1 is outside"),
        ({"probs": np.array([[0.5, 0.5], [0.1, 3.0]])}, "row 1: 3 is outside"),
        ({"probs": np.array([0.5, 0.5])}, "shape"),
        ({"probs": np.array([[1, 0]])}, "floating-point"),
        ({"u": np.array([0.5, 0.5, 0.5])}, "one for each of 1 rows"),
        ({"u": 1.5}, "outside \\[0, 1\\]"),
        ({"threshold": np.nan}, "nan"),
        ({"score": "margin"}, "choose one of"),
    ],
)
def test_bad_input_is_refused_in_one_line(change: dict, text: str) -> None:
    for kind in KINDS:
        options = {"probs": np.array([[0.5, 0.5]]), "threshold": 0.5, "score": kind, "u": 0.5} | change
        with pytest.raises(InputError, match=text) as caught:
            prediction_sets(options.pop("probs"), options.pop("threshold"), **options)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"penalty": -1.0}, {"weight": 0.0}, {"free": -1}, {"penalty": np.nan}])
def test_constants_that_break_the_order_are_refused(options: dict) -> None:
    with pytest.raises(InputError):
        Score("raps", **options)
