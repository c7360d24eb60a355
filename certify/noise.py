"""Counter-based Gaussian noise, the grid of stored probabilities, and runs that repeat bit by bit.

Noise is counter-based (Philox: Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2,
3"): a draw is a function of (seed, stream, image index, draw index) alone. Batch size, order, resumption, sharding
over ranks and the number of processes therefore cannot change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor

from neurosym.certify.evidence import LEVELS
from neurosym.errors import InputError

BLOCK = 64  # draws that share one counter prefix; a draw is reached from the start of its block
WORD = 1 << 64  # seeds, streams and image indices lie below


def blocks(seed: int, image: int, stream: int, shape: tuple[int, ...], stop: int) -> Iterator[np.ndarray]:
    """Blocks of draws ``[<= BLOCK, *shape]`` of one image, from block 0 up to draw ``stop`` (lazily)."""
    for block in range(-(-stop // BLOCK)):
        yield _block(seed, image, stream, shape, block, min(BLOCK, stop - block * BLOCK))


def _block(seed: int, image: int, stream: int, shape: tuple[int, ...], block: int, count: int) -> np.ndarray:
    """First ``count`` draws of one block.

    The key is (seed, stream), the counter, low word first, (running, 0, block, image).

    A block consumes far fewer than 2^64 counters, so the streams of different blocks and images never meet.
    """
    counter = np.array([0, 0, block, image], dtype=np.uint64)
    key = np.array([seed, stream], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(counter=counter, key=key))
    return generator.standard_normal((count, *shape), dtype=np.float32)


def noise(seed: int, image_index: int, start: int, count: int, shape: Sequence[int], *, stream: int = 0) -> np.ndarray:
    """Standard Gaussian draws ``start .. start + count - 1`` of one image.

    Args:
        seed, image_index, stream: integers in ``[0, 2^64)``; different triples give independent noise.
        start, count: range of draws.
        shape: shape of one draw, e.g. ``(3, 32, 32)``.

    Returns:
        float32 ``[count, *shape]``, a function of the arguments alone.

    Raises:
        InputError: an argument out of range.
    """
    for name, value in (("seed", seed), ("image_index", image_index), ("stream", stream)):
        if not 0 <= int(value) < WORD:
            raise InputError(f"{name}: {value} is out of range; use an integer from 0 to 2^64 - 1")
    if start < 0 or count < 0:
        raise InputError(f"noise: start {start} and count {count} must not be negative")
    dims = tuple(int(size) for size in shape)
    result = np.empty((count, *dims), dtype=np.float32)
    done = 0
    while done < count:
        block, offset = divmod(start + done, BLOCK)
        take = min(BLOCK - offset, count - done)
        result[done : done + take] = _block(seed, image_index, stream, dims, block, offset + take)[offset:]
        done += take
    return result


def quantise(probabilities: Tensor) -> np.ndarray:
    """Grid index ``floor(65536 p)``, clipped to ``0 .. 65535``, as uint16 of the same shape.

    Raises:
        InputError: a probability is not finite.
    """
    if not bool(torch.isfinite(probabilities).all()):
        raise InputError("the network gives NaN or infinite outputs under noise; check weights, mean and std")
    grid = (probabilities * LEVELS).to(torch.int32).clamp_(0, LEVELS - 1)
    return grid.cpu().numpy().astype(np.uint16)


def dequantise(grid: np.ndarray) -> Tensor:
    """Mid-points ``(k + 1/2) / 65536``, exact in float32."""
    return torch.from_numpy((grid.astype(np.float32) + np.float32(0.5)) / np.float32(LEVELS))


def shard(indices: Sequence[int] | np.ndarray, rank: int, world: int) -> np.ndarray:
    """The rows of one rank: consecutive, balanced parts whose concatenation over ranks is ``indices``.

    Raises:
        InputError: ``rank`` is not in ``0 .. world - 1``.
    """
    if not 0 <= rank < world:
        raise InputError(f"rank: {rank} of {world} does not exist; use 0 to world - 1")
    return np.array_split(np.asarray(indices, dtype=np.int64), world)[rank]


def pick_device(device: str | torch.device) -> torch.device:
    """``"auto"`` is the accelerator when there is one.

    Raises:
        InputError: unknown device or no CUDA.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"device: {device!r} is unknown; use auto, cpu or cuda") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda was asked for but none is available; use --device cpu")
    return chosen


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """One thread on the CPU, fixed algorithms without TF32 on CUDA: sums are then taken in one order."""
    threads = torch.get_num_threads()
    flags = (
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        if device.type == "cuda"
        else nullcontext()
    )
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        with flags:
            yield
    finally:
        if device.type == "cpu":
            torch.set_num_threads(threads)
