"""Counter-based noise: a function of (seed, stream, image, draw) alone, standard normal, independent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neurosym.certify.evidence import encode
from neurosym.certify.noise import BLOCK, blocks, dequantise, noise, quantise, shard
from neurosym.errors import InputError

SHAPE = (3, 4, 5)


@settings(max_examples=60, deadline=None)
@given(start=st.integers(0, 3 * BLOCK), count=st.integers(0, 2 * BLOCK + 3))
def test_any_range_is_a_slice_of_the_whole(start: int, count: int) -> None:
    whole = noise(11, 5, 0, 6 * BLOCK, SHAPE)
    part = noise(11, 5, start, count, SHAPE)
    assert part.dtype == np.float32
    assert part.shape == (count, *SHAPE)
    assert np.array_equal(part, whole[start : start + count])


@pytest.mark.parametrize("stop", [1, 63, 64, 65, 200])
def test_lazy_blocks_are_the_same_draws(stop: int) -> None:
    assert np.array_equal(np.concatenate(list(blocks(3, 9, 2, SHAPE, stop))), noise(3, 9, 0, stop, SHAPE, stream=2))


def test_order_of_calls_does_not_matter() -> None:
    forward = [noise(1, i, 10, 3, (7,)) for i in range(4)]
    backward = [noise(1, i, 10, 3, (7,)) for i in reversed(range(4))]
    for a, b in zip(forward, reversed(backward), strict=True):
        assert np.array_equal(a, b)


def test_numbers_are_those_of_philox_itself() -> None:
    """Oracle: the documented key and counter layout, written out."""
    generator = np.random.Generator(
        np.random.Philox(key=np.array([17, 4], np.uint64), counter=np.array([0, 0, 2, 33], np.uint64))
    )
    expected = generator.standard_normal((BLOCK, 6), dtype=np.float32)
    assert np.array_equal(noise(17, 33, 2 * BLOCK, BLOCK, (6,), stream=4), expected)


def test_moments_and_normality() -> None:
    sample = np.concatenate([noise(2024, i, 0, 100, (3, 8, 8)).ravel() for i in range(10)]).astype(np.float64)
    size = sample.size
    assert abs(sample.mean()) < 5 / np.sqrt(size)
    assert abs(sample.var() - 1) < 5 * np.sqrt(2 / size)
    assert abs((sample**4).mean() - 3) < 5 * np.sqrt(96 / size)
    assert stats.kstest(sample, "norm").pvalue > 1e-4


@pytest.mark.parametrize(
    "other",
    [{"seed": 8}, {"image": 1}, {"start": BLOCK}, {"start": 1}, {"stream": 1}, {"image": 2**32}, {"seed": 2**63}],
)
def test_streams_are_independent(other: dict[str, int]) -> None:
    def draw(seed: int = 7, image: int = 0, start: int = 0, stream: int = 0) -> np.ndarray:
        return noise(seed, image, start, 30, (20, 20), stream=stream).ravel().astype(np.float64)

    first, second = draw(), draw(**other)
    assert not np.array_equal(first, second)
    # for independent normals the correlation times sqrt(size) is standard normal, and so for their squares
    for a, b in ((first, second), (first**2, second**2)):
        assert abs(np.corrcoef(a, b)[0, 1]) * np.sqrt(a.size) < 5


def test_pixels_within_a_draw_are_independent() -> None:
    drawn = noise(5, 0, 0, 4000, (6,)).astype(np.float64)
    off = np.corrcoef(drawn.T)[~np.eye(6, dtype=bool)]
    assert np.abs(off).max() * np.sqrt(4000) < 5


@pytest.mark.parametrize(
    ("seed", "image", "start", "count"), [(-1, 0, 0, 1), (2**64, 0, 0, 1), (0, -1, 0, 1), (0, 0, -1, 1), (0, 0, 0, -1)]
)
def test_out_of_range(seed: int, image: int, start: int, count: int) -> None:
    with pytest.raises(InputError):
        noise(seed, image, start, count, (2,))


def test_grid_is_exact_and_the_same_as_the_cache_format() -> None:
    probabilities = torch.tensor([0.0, 1.0, 0.5, 0.5 - 2**-20, 1 / 3, 1 - 2**-24, 2**-17, 1 / 65536])
    codes = quantise(probabilities)
    assert codes.dtype == np.uint16
    assert codes.tolist() == [0, 65535, 32768, 32767, 21845, 65535, 0, 1]
    assert np.array_equal(codes, encode(probabilities.numpy()))
    every = np.arange(65536).astype(np.uint16)
    middle = dequantise(every)
    assert middle.dtype == torch.float32
    assert np.array_equal(middle.double().numpy(), (np.arange(65536) + 0.5) / 65536)
    assert np.array_equal(quantise(middle), every)


def test_nan_is_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        quantise(torch.tensor([0.5, float("nan")]))


@given(size=st.integers(0, 40), world=st.integers(1, 9))
def test_shards_concatenate_to_the_whole(size: int, world: int) -> None:
    parts = [shard(range(size), rank, world) for rank in range(world)]
    assert np.concatenate(parts).tolist() == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shard_of_no_rank() -> None:
    with pytest.raises(InputError, match="rank"):
        shard([1, 2], 2, 2)
