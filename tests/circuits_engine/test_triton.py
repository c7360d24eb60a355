"""The triton kernel: against the torch kernel and automatic differentiation of the definition.

Without a GPU the code runs in triton's interpreter, which must be switched on before triton is imported: this file
starts itself as a script in a process of its own and reports what every check there has found. What the interpreter
cannot see, that the code compiles for GPUs, is checked in another.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from neurosym.circuits import compile
from neurosym.circuits.engine import triton_kernel
from neurosym.circuits.engine.kernel import Derivatives, Weights
from neurosym.circuits.engine.program import Program, build_program
from neurosym.circuits.engine.schedule import Step, downward_steps, upward_steps
from neurosym.circuits.engine.torch_kernel import TorchKernel
from neurosym.circuits.engine.triton_kernel import TILE, TritonKernel, choose_shape, flatten
from neurosym.errors import InputError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "circuits"))

from random_knowledge import random_knowledge

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
FORMS = ("whole", "levels")


# -- cases -------------------------------------------------------------------------------------------------------------


def random_program(rng: np.random.Generator, nodes: int, most: int = 4, m: int = 3, c: int = 2) -> Program:
    """Any straight-line code in which the last node uses what nobody else does; squares and unused leaves included."""
    first = 2 * m + c + 1
    level = np.sort(np.concatenate([[1], rng.integers(1, 1 + nodes // 2 + 1, size=nodes - 2), [nodes + 1]]))
    _, level = np.unique(level, return_inverse=True)
    below = [first + int(np.searchsorted(level, x)) for x in level[:-1]]
    left = [rng.integers(0, high, size=rng.integers(1, most + 1)) for high in below]
    right = [rng.integers(0, high, size=x.size) for high, x in zip(below, left, strict=True)]
    used = set(np.concatenate([*left, *right]).tolist())
    rest = np.array([row for row in range(first, first + nodes - 1) if row not in used])
    left.append(rest)
    right.append(rng.integers(0, first, size=rest.size))
    left = [np.where(x == first - 1, 0, x) for x in left]  # the number one stands on the right only
    offsets = np.concatenate([[0], np.cumsum([x.size for x in left])])
    levels = np.concatenate([np.searchsorted(level, np.arange(level[-1] + 1)), [nodes]])
    last = first + nodes - 1
    return Program(m, c, last + 1, last, offsets, np.concatenate(left), np.concatenate(right), levels)


def random_weights(
    program: Program, batch: int, seed: int, dtype: torch.dtype = torch.float64, own: bool = True, sign: float = 0.0
) -> Weights:
    """Numbers in (sign, 1), some exactly 0 or 1."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Tensor:
        x = sign + (1 - sign) * rng.random(shape)
        return torch.from_numpy(np.where(rng.random(shape) < 0.2, np.round(x), x)).to(dtype)

    m, c = program.num_variables, program.num_constants
    return Weights(draw(batch, m), draw(batch, m), draw(batch, c) if own else draw(c))


def circuits(rng: np.random.Generator, count: int, predicates: int, fewest: int, most: int) -> Iterator[Program]:
    """Circuits of random knowledge bases with so many elements."""
    while count:
        for part in compile(random_knowledge(rng, predicates)).parts:
            for component in part.components:
                program = build_program(component.circuit.ir)
                if fewest <= program.num_elements <= most and count:
                    count -= 1
                    yield program


def agree(got: Sequence[Derivatives], expected: Sequence[Derivatives], tolerance: float) -> None:
    for a, b in zip(got, expected, strict=True):
        for field, value in vars(b).items():
            torch.testing.assert_close(getattr(a, field), value, rtol=tolerance, atol=tolerance)


def like_torch(
    program: Program, form: str, weights: Weights, direction: Weights, tolerance: float = 1e-12, lower: bool = True
) -> None:
    """Tangents, and with ``lower`` values and derivatives, as those of the torch kernel."""
    kernel, expected = TritonKernel(program, form), TorchKernel(program).tangents(weights, direction)
    agree(kernel.tangents(weights, direction), expected, tolerance)
    if lower:
        agree([kernel.derivatives(weights)], expected[:1], tolerance)
        torch.testing.assert_close(kernel.value(weights), expected[0].value, rtol=tolerance, atol=tolerance)
        least = TorchKernel(program).least(weights)
        torch.testing.assert_close(kernel.least(weights), least, rtol=tolerance, atol=tolerance)


def by_definition(program: Program, weights: Weights) -> Tensor:
    """value[n] = sum of value[left] * value[right], differentiable."""
    constants = weights.constants.expand(weights.batch, -1)
    rows = [*weights.pos.t(), *weights.neg.t(), *constants.t(), torch.ones_like(weights.pos[:, 0])]
    for begin, end in zip(program.offsets[:-1], program.offsets[1:], strict=True):
        pairs = zip(program.left[begin:end], program.right[begin:end], strict=True)
        rows.append(torch.stack([rows[i] * rows[j] for i, j in pairs]).sum(dim=0))
    return rows[program.root]


def differentiate(program: Program, weights: Weights, direction: Weights) -> tuple[Derivatives, Derivatives]:
    """Values and derivatives, and their change along a direction, by automatic differentiation."""
    inputs, along = ((w.pos, w.neg, w.constants.expand(w.batch, -1)) for w in (weights, direction))

    def total(*parts: Tensor) -> tuple[Tensor, Tensor]:
        value = by_definition(program, Weights(*parts))
        return value.sum(), value

    def derivatives(*parts: Tensor) -> tuple[Tensor, ...]:
        slopes, value = torch.func.grad(total, argnums=(0, 1, 2), has_aux=True)(*parts)
        return value, *slopes

    found, change = torch.func.jvp(derivatives, inputs, along)
    return Derivatives(*found), Derivatives(*change)


# -- checks inside the interpreter -------------------------------------------------------------------------------------


def interpreted_circuits() -> None:
    for number, program in enumerate(circuits(np.random.default_rng(1), 24, 6, 2, 9)):
        batch, own = 33 if number % 8 == 2 else number % 5 + 1, bool(number // 2 % 2)
        weights = random_weights(program, batch, number, own=own)
        direction = random_weights(program, batch, 1000 + number, own=own, sign=-1.0)
        # the lower orders are the same code with less of it, and the interpreter is slow
        like_torch(program, FORMS[number % 3 // 2], weights, direction, lower=number % 8 < 2)


def interpreted_straight_line_code() -> None:
    """Against automatic differentiation, also with sums cut into parts."""
    rng = np.random.default_rng(2)
    for number in range(6):
        program = random_program(rng, nodes=int(rng.integers(2, 8)))
        weights = random_weights(program, 5, number)
        direction = random_weights(program, 5, 100 + number, sign=-1.0)
        kernel, longest = TritonKernel(program, FORMS[number % 2]), (64, 2)[number // 2 % 2]
        kernel._flat = {
            (name, torch.device("cpu")): flatten(steps(program), program.num_rows, program.one, longest)
            for name, steps in (("up", upward_steps), ("down", downward_steps))
        }
        agree(kernel.tangents(weights, direction), differentiate(program, weights, direction), 1e-11)


def interpreted_single_precision() -> None:
    rng = np.random.default_rng(3)
    for number, form in enumerate(FORMS):
        program = random_program(rng, nodes=5, most=3)
        weights, direction = (random_weights(program, 6, number + k, torch.float32) for k in (0, 50))
        exact = replace(weights, constants=weights.constants.double())  # more precise than the weights, at times
        like_torch(program, form, exact if number else weights, direction, tolerance=1e-5)
        assert TritonKernel(program, form).value(weights).dtype == torch.float32


def interpreted_leaf_as_root() -> None:
    """No node at all: the leaf is the value, its derivative 1, all others 0."""
    none, zero = np.zeros(0, dtype=np.int64), np.zeros(1, np.int64)
    for root in (0, 3, 4):
        program = Program(2, 1, 6, root, zero, none, none, zero)
        weights, direction = random_weights(program, 5, root), random_weights(program, 5, 9 + root)
        for form in FORMS:
            kernel = TritonKernel(program, form)
            for found, moved in zip(kernel.tangents(weights, direction), (weights, direction), strict=True):
                assert torch.equal(found.value, torch.cat([moved.pos, moved.neg, moved.constants], dim=1)[:, root])
                expected = torch.eye(5, dtype=torch.float64)[root] * (moved is weights)
                assert (torch.cat([found.on, found.off, found.constants], dim=1) == expected).all()
            assert torch.equal(kernel.value(weights), kernel.derivatives(weights).value)
            assert kernel.least(weights)[1].tolist() == [1.0] * 5


def interpreted_single_node() -> None:
    """A constant times a negative literal."""
    program = Program(1, 1, 5, 4, np.array([0, 1]), np.array([1]), np.array([2]), np.array([0, 1]))
    weights = Weights(torch.tensor([[0.5]]), torch.tensor([[0.25]]), torch.tensor([[0.5]]))
    for form in FORMS:
        found = TritonKernel(program, form).derivatives(weights)
        assert [x.item() for x in vars(found).values()] == [0.125, 0.0, 0.5, 0.25]


def interpreted_few_slabs() -> None:
    """Many tiles through one slab, in one launch and in several."""
    program = random_program(np.random.default_rng(4), nodes=4, most=2)
    weights, direction = (random_weights(program, 40, seed, own=seed == 0) for seed in (0, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_kernel, "INTERPRETER", (1, 1))
        for form in FORMS:
            like_torch(program, form, weights, direction)


def interpreted_odd_inputs() -> None:
    """Constants for all rows and for each mixed, strided inputs, no rows."""
    program = random_program(np.random.default_rng(5), nodes=4)
    weights, direction = random_weights(program, 4, 0, own=False), random_weights(program, 4, 1)
    strided = replace(weights, pos=weights.pos.t().contiguous().t(), neg=weights.neg.repeat(1, 2)[:, ::2])
    for form in FORMS:
        like_torch(program, form, strided, direction)
        empty = TritonKernel(program, form).derivatives(weights.rows(slice(0, 0)))
        assert [x.shape[0] for x in vars(empty).values()] == [0, 0, 0, 0]


def interpreted_long_sums() -> None:
    """More elements and parents than are summed in one go: sum over j of pos_0 * neg_j, and its square."""
    m = 70
    left, right = np.zeros(m + 1, np.int64), np.arange(m, 2 * m + 1)
    left[-1] = right[-1] = 2 * m + 1
    program = Program(m, 0, 2 * m + 3, 2 * m + 2, np.array([0, m, m + 1]), left, right, np.array([0, 1, 2]))
    weights = random_weights(program, 3, 7, own=False)
    found = TritonKernel(program, "whole").derivatives(weights)
    total = weights.neg.sum(dim=1)
    base = weights.pos[:, 0] * total
    close = partial(torch.testing.assert_close, rtol=1e-13, atol=0)
    close(found.value, base**2)
    close(found.on[:, 0], 2 * base * total)
    assert not found.on[:, 1:].any()
    close(found.off, (2 * base * weights.pos[:, 0])[:, None].expand(-1, m))


# -- checks with the compiler ------------------------------------------------------------------------------------------


class Compiler:
    """Stands in for one of the launched functions, compiles it for its arguments and keeps the outcome."""

    def __init__(self, function: Any) -> None:
        self.function, self.made = function, []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **options: self.made.append(self.function.run(*args, grid=grid, warmup=True, **options))


def _compile(form: str, dtype: torch.dtype, order: int, capability: int) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    from neurosym.circuits.engine import triton_loops

    target = GPUTarget("cuda", capability, 32)
    # all that compiling asks of a driver, and no more than this works without a GPU
    driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: target, get_current_device=lambda: 0, get_current_stream=lambda device: 0
        )
    )
    names = ("whole",) if form == "whole" else ("fill", "one_level", "collect")
    compilers = {name: Compiler(getattr(triton_loops, name)) for name in names}
    for m, nodes, batch in ((3, 6, 33), (16, 7, 64)):
        program = random_program(np.random.default_rng(6), nodes=nodes, m=m, c=m)
        kernel = TritonKernel(program, form)
        kernel.loops = SimpleNamespace(INTERPRETED=True, **compilers)
        kernel._run(random_weights(program, batch, 0, dtype), random_weights(program, batch, 1, dtype), order)
    for name, compiler in compilers.items():
        # another circuit and batch do not make it compile again; up and down are different
        assert len({id(made) for made in compiler.made}) == (2 if name == "one_level" else 1)
        for made in compiler.made:
            assert len(made.asm["cubin"]) > 1000
            assert "atom" not in made.asm["ptx"]


def compiled_whole() -> None:
    _compile("whole", torch.float32, 2, 80)


def compiled_levels() -> None:
    _compile("levels", torch.float64, 1, 90)


# -- what pytest sees --------------------------------------------------------------------------------------------------


CHECKS = {
    group: [name for name in list(globals()) if name.startswith(group + "_")] for group in ("interpreted", "compiled")
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of every check: empty, or a traceback."""
    folder = tmp_path_factory.mktemp("triton")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TRITON_")}
    clean |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TRITON_CACHE_DIR": str(folder / "cache")}
    special = {"interpreted": {"TRITON_INTERPRET": "1"}, "compiled": {}}
    started = [
        subprocess.Popen([sys.executable, __file__, group, str(folder / group)], env=clean | extra)
        for group, extra in special.items()
    ]
    try:
        assert [process.wait(timeout=300) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    return {name: text for group in special for name, text in json.loads((folder / group).read_text()).items()}


@needs_triton
@pytest.mark.parametrize("check", CHECKS["interpreted"] + CHECKS["compiled"])
def test_elsewhere(outcomes: dict[str, str], check: str) -> None:
    assert not outcomes[check], outcomes[check]


@needs_triton
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="triton's interpreter takes tensors of the host")
def test_tensors_on_the_host_are_refused() -> None:
    program = random_program(np.random.default_rng(0), nodes=3)
    with pytest.raises(InputError, match="CUDA device but they are on cpu"):
        TritonKernel(program).value(random_weights(program, 2, 0))


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_on_a_gpu(form: str, dtype: torch.dtype, tolerance: float) -> None:
    batches = (1, 5, 100, 3000, 70000)
    for number, program in enumerate(circuits(np.random.default_rng(8), 5, 12, 30, 1000)):
        parts = (random_weights(program, batches[number], seed, dtype) for seed in (number, 100 + number))
        weights, direction = (Weights(x.pos.cuda(), x.neg.cuda(), x.constants.cuda()) for x in parts)
        like_torch(program, form, weights, direction, tolerance)
        first, again = (TritonKernel(program, form).tangents(weights, direction) for _ in range(2))
        agree(first, again, 0.0)


def _evaluate(steps: list[Step], x: np.ndarray, y: np.ndarray) -> None:
    for step in steps:
        x[step.target] = np.add.reduceat(x[step.a] * y[step.b], step.offsets)


@pytest.mark.parametrize("longest", [2, 3, 64])
def test_cut_sums_are_the_same_sums(longest: int) -> None:
    """The flat levels have no long row, are sorted, write each row once, and compute what the steps compute."""
    rng = np.random.default_rng(longest)
    for _ in range(20):
        program = random_program(rng, nodes=int(rng.integers(2, 30)), most=12)
        for make in (upward_steps, downward_steps):
            steps = make(program)
            flat = flatten(steps, program.num_rows, program.one, longest)
            levels, offsets, target, a, b = (array.numpy().astype(np.int64) for array in flat.arrays)
            counts = np.diff(offsets)
            assert counts.max() <= longest
            assert np.unique(target).size == target.size
            assert flat.num_rows == max(program.num_rows, target.max() + 1)
            parts = []
            for low, high in pairwise(levels):
                assert (np.diff(counts[low:high]) >= 0).all()
                e = slice(offsets[low], offsets[high])
                parts.append(Step(target[low:high], offsets[low:high] - offsets[low], a[e], b[e]))
            start, y = np.zeros(flat.num_rows), rng.uniform(0.1, 0.2, flat.num_rows)
            y[program.one] = 1.0
            start[: program.first], start[program.root] = rng.uniform(0.5, 1, program.first), 1.0
            expected, got = start.copy(), start.copy()
            _evaluate(steps, expected, y)
            _evaluate(parts, got, y)
            np.testing.assert_allclose(got[: program.num_rows], expected[: program.num_rows], rtol=1e-12)


@pytest.mark.parametrize("width", [0, 1, 3, 17, 5000])
@pytest.mark.parametrize("batch", [1, 4, 5, 31, 1000, 10**6])
def test_shapes(width: int, batch: int) -> None:
    shape = choose_shape(width, batch, processors=100)
    assert shape.nodes & (shape.nodes - 1) == shape.columns & (shape.columns - 1) == 0
    assert shape.nodes * shape.columns <= TILE
    assert shape.nodes <= max(width, 1)
    assert shape.columns < 2 * max(batch, 32)
    # one launch where all multiprocessors are busy that way or the levels are narrow; forms can be forced
    if batch == 10**6 or width <= 16:
        assert shape.whole
    if batch <= 1000 and width == 5000:
        assert shape.whole == (width <= 16 * shape.nodes)
    assert choose_shape(width, batch, 100, "whole").whole
    assert not choose_shape(width, batch, 100, "levels").whole


if __name__ == "__main__":
    outcome = {}
    for name in CHECKS[sys.argv[1]]:
        try:
            globals()[name]()
            outcome[name] = ""
        except Exception:
            outcome[name] = traceback.format_exc()
    Path(sys.argv[2]).write_text(json.dumps(outcome))
