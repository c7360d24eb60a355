"""From a torch module to a :class:`~neurosym.models.bounds.layers.Network`, by symbolic tracing.

Known: Linear, Conv2d, BatchNorm (evaluation mode, as scale and shift), ReLU, LeakyReLU, AvgPool2d, AdaptiveAvgPool2d, means
over the image axes, MaxPool2d, Flatten and reshapes, Dropout and Identity, sums of two branches, concatenation, and
sums, differences, products and quotients with constants (normalisation). The result is compared with the module itself
in double precision, so that a step that the trace misread is found here and not in a certificate.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from neurosym.errors import InputError
from neurosym.models.bounds import layers as ops
from neurosym.models.bounds.layers import Layer, Network, Node, Shape
from neurosym.models.loading import PredicateNetwork
from neurosym.models.outputs import as_logits

KNOWN = "Linear, Conv2d, BatchNorm, ReLU, LeakyReLU, pooling, Flatten, sums, concatenation and constants"
AGREEMENT = 1e-9  # between the traced network and the module in double precision, relative
ARITHMETIC = {
    operator.add: "add", operator.iadd: "add", torch.add: "add", "add": "add", "add_": "add",
    operator.sub: "sub", operator.isub: "sub", torch.sub: "sub", "sub": "sub",
    operator.mul: "mul", operator.imul: "mul", torch.mul: "mul", "mul": "mul",
    operator.truediv: "div", torch.div: "div", "div": "div",
}  # fmt: skip
RELU = (torch.relu, F.relu, "relu", "relu_", torch.relu_)
RESHAPE = (torch.flatten, torch.reshape, "flatten", "view", "reshape")
SAME = (F.dropout, "contiguous", "float", "double", "clone", torch.clone)


def build_network(model: nn.Module, shape: Shape, device: torch.device | str = "cpu") -> Network:
    """The network of a module that maps images ``[B, *shape]`` to logits (see ``as_logits``).

    Raises:
        InputError: an operation that no bound is known for, named; or a module that cannot be traced.
    """
    exact = _double(model)
    inner, scale = exact, None
    if isinstance(exact, PredicateNetwork):  # its checks of the output cannot be traced, its two lines can be written
        inner = exact.network
        if exact.normalises:
            deviation = cast(Tensor, exact.std)
            scale = ops.Scale(1.0 / deviation, -cast(Tensor, exact.mean) / deviation)
    if type(inner).__module__.startswith("torch.nn."):  # a single layer is traced as one step only inside a container
        inner = nn.Sequential(inner)
    builder = _Builder(inner, shape, scale)
    network = _moved(builder.build(), torch.device(device))
    _compare(network, exact, shape)
    return network


def _double(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model).eval().cpu().double()
    except (RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
        raise InputError(f"bounds: the network cannot be copied to double precision ({_first(error)})") from None


def _first(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _compare(network: Network, model: nn.Module, shape: Shape) -> None:
    images = torch.rand((3, *shape), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = as_logits(model(images.clone()))
    found = ops.evaluate(network, images).cpu()
    if found.shape != expected.shape or not torch.allclose(found, expected, AGREEMENT, AGREEMENT):
        raise InputError("bounds: the traced network differs from the module; steps that work in place, as a rule")


class _Builder:
    """Walks a traced graph once; ``values`` holds what each step is: a node number, or a constant."""

    def __init__(self, module: nn.Module, shape: Shape, scale: ops.Scale | None) -> None:
        self.module, self.nodes = module, [Node(ops.Input(), (), shape)]
        self.values: dict[fx.Node, Any] = {}
        self.start = _Number(0) if scale is None else self.put(scale, 0)

    def build(self) -> Network:
        try:
            graph = fx.symbolic_trace(self.module).graph
        except Exception as error:  # tracing runs the user's forward, which may raise anything
            raise InputError(f"bounds: the network cannot be traced ({_first(error)}); {KNOWN} are known") from None
        seen = False
        for step in graph.nodes:
            if step.op == "placeholder":
                if seen and not step.args:
                    raise InputError(f"bounds: the network takes a second input, {step.name}; one image is expected")
                self.values[step] = step.args[0] if seen else self.start
                seen = True
            elif step.op == "get_attr":
                self.values[step] = _attribute(self.module, str(step.target))
            elif step.op == "output":
                return self._finish(self._resolve(step.args[0]))
            else:
                self.values[step] = self._step(step)
        raise InputError("bounds: the traced network has no output")

    def _finish(self, output: Any) -> Network:
        if isinstance(output, Mapping):
            output = [output[name] for name in ("classes", "concepts") if output.get(name) is not None]
        if isinstance(output, tuple | list):
            output = output[0] if len(output) == 1 else self.put(ops.Cat(), *output)
        if not isinstance(output, _Number) or len(self.nodes[output].shape) != 1:
            raise InputError("bounds: the network's output is no table of logits [batch, predicates]")
        if output != len(self.nodes) - 1:
            output = self.put(ops.Reshape(self.nodes[output].shape), output)
        return Network(tuple(self.nodes))

    def _resolve(self, item: Any) -> Any:
        return fx.node.map_arg(item, lambda step: self.values[step])

    def put(self, layer: Layer, *inputs: int) -> _Number:
        """Append a node; its shape comes from running the layer on zeros."""
        zeros = [torch.zeros((1, *self.nodes[i].shape), dtype=torch.float64) for i in inputs]
        try:
            shape = tuple(ops.value(layer, zeros).shape[1:])
        except RuntimeError as error:
            raise InputError(f"bounds: shapes do not fit ({_first(error)}); check the size of the images") from None
        self.nodes.append(Node(layer, tuple(int(i) for i in inputs), shape))
        return _Number(len(self.nodes) - 1)

    def _step(self, step: fx.Node) -> Any:
        args, kwargs = self._resolve(step.args), self._resolve(step.kwargs)
        if step.op == "call_module":
            return self._module(str(step.target), self.module.get_submodule(str(step.target)), args[0])
        if isinstance(args[0], _Shape) or (isinstance(args[0], _Number) and _asks_shape(step, args)):
            return _Shape()
        target: Any = step.target
        if target in ARITHMETIC:
            return self._arithmetic(ARITHMETIC[target], args[0], args[1], kwargs, step)
        if target in RELU:
            return self.put(ops.Leaky(0.0), args[0])
        if target is F.leaky_relu:
            return self._leaky(args[0], kwargs.get("negative_slope", args[1] if len(args) > 1 else 0.01))
        if target in RESHAPE:
            return self._reshape(args, kwargs, target)
        if target in SAME:
            return args[0]
        if target in (torch.cat, torch.concat):
            return self._concatenate(args, kwargs)
        if target in (torch.mean, "mean"):
            return self._mean(args, kwargs)
        if target in (F.avg_pool2d, F.max_pool2d, F.adaptive_avg_pool2d):
            return self._pool_function(target, args, kwargs)
        raise self._unknown(step)

    def _unknown(self, step: fx.Node) -> InputError:
        name = getattr(step.target, "__name__", str(step.target))
        return InputError(f"bounds: no bound is known for {name} ({step.name}); {KNOWN} are known")

    # ---- modules
    def _module(self, name: str, module: nn.Module, x: int) -> Any:
        if isinstance(module, nn.Identity | nn.Dropout | nn.Dropout1d | nn.Dropout2d):
            return x
        if isinstance(module, nn.Linear):
            return self.put(ops.Dense(module.weight.detach(), _bias(module.bias, module.out_features)), x)
        if isinstance(module, nn.Conv2d):
            return self._conv(name, module, x)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            return self.put(self._batch_norm(name, module, len(self.nodes[x].shape)), x)
        if isinstance(module, nn.ReLU):
            return self.put(ops.Leaky(0.0), x)
        if isinstance(module, nn.LeakyReLU):
            return self._leaky(x, module.negative_slope)
        if isinstance(module, nn.Flatten):
            return self._reshape((x, module.start_dim, module.end_dim), {}, torch.flatten)
        if isinstance(module, nn.AvgPool2d):
            plain = module.count_include_pad and module.divisor_override is None and not module.ceil_mode
            if not plain:
                raise InputError(f"bounds: {name} (AvgPool2d): ceil_mode, divisor_override and count_include_pad=False")
            return self._average(x, module.kernel_size, module.stride, module.padding)
        if isinstance(module, nn.AdaptiveAvgPool2d):
            return self._adaptive(x, module.output_size)
        if isinstance(module, nn.MaxPool2d) and not module.return_indices:
            kernel, stride = _pair(module.kernel_size), _pair(module.stride)
            padding, dilation = _pair(module.padding), _pair(module.dilation)
            return self.put(ops.MaxPool(kernel, stride, padding, dilation, module.ceil_mode), x)
        raise InputError(f"bounds: no bound is known for {type(module).__name__} ({name}); {KNOWN} are known")

    def _conv(self, name: str, module: nn.Conv2d, x: int) -> _Number:
        if isinstance(module.padding, str) or module.padding_mode != "zeros":
            raise InputError(f"bounds: {name} (Conv2d): padding must be numbers, with zeros")
        stride, padding, dilation = (_pair(v) for v in (module.stride, module.padding, module.dilation))
        bias = _bias(module.bias, module.out_channels)
        shape = self.nodes[x].shape
        return self.put(ops.Conv(module.weight.detach(), bias, stride, padding, dilation, module.groups, shape), x)

    def _batch_norm(self, name: str, module: nn.BatchNorm1d | nn.BatchNorm2d, dims: int) -> ops.Scale:
        if module.running_mean is None or module.running_var is None:
            raise InputError(f"bounds: {name} (batch norm) keeps no running statistics; images would mix")
        factor = 1.0 / torch.sqrt(module.running_var + module.eps)
        if module.weight is not None:
            factor = factor * module.weight.detach()
        shift = -module.running_mean * factor
        if module.bias is not None:
            shift = shift + module.bias.detach()
        view = (-1,) + (1,) * (dims - 1)
        return ops.Scale(factor.reshape(view), shift.reshape(view))

    def _leaky(self, x: int, slope: float) -> _Number:
        if not 0 <= slope <= 1:
            raise InputError(f"bounds: LeakyReLU with slope {slope}; slopes from 0 to 1 are known")
        return self.put(ops.Leaky(float(slope)), x)

    # ---- pooling
    def _average(self, x: int, kernel: Any, stride: Any, padding: Any) -> _Number:
        shape, (high, wide) = self.nodes[x].shape, _pair(kernel)
        weight = torch.full((shape[0], 1, high, wide), 1.0 / (high * wide), dtype=torch.float64)
        zeros, step = torch.zeros(shape[0], dtype=torch.float64), _pair(kernel if stride is None else stride)
        return self.put(ops.Conv(weight, zeros, step, _pair(padding), (1, 1), shape[0], shape), x)

    def _adaptive(self, x: int, size: Any) -> _Number:
        shape = self.nodes[x].shape
        wanted = [have if want is None else want for have, want in zip(shape[1:], _pair(size), strict=True)]
        if any(have % want for have, want in zip(shape[1:], wanted, strict=True)):
            raise InputError(f"bounds: AdaptiveAvgPool2d from {shape[1:]} to {tuple(wanted)}: sizes must divide")
        kernel = tuple(have // want for have, want in zip(shape[1:], wanted, strict=True))
        return self._average(x, kernel, kernel, 0)

    def _pool_function(self, target: Any, args: Any, kwargs: Any) -> _Number:
        if target is F.adaptive_avg_pool2d:
            return self._adaptive(args[0], args[1] if len(args) > 1 else kwargs["output_size"])
        names = ("kernel_size", "stride", "padding")
        given = dict(zip(names, args[1:], strict=False)) | dict(kwargs)
        kernel, stride, padding = given.pop("kernel_size"), given.pop("stride", None), given.pop("padding", 0)
        plain = {"dilation": 1, "ceil_mode": False, "return_indices": False, "count_include_pad": True}
        if len(args) > 4 or any(value is not None and plain.get(name) != value for name, value in given.items()):
            raise InputError(f"bounds: {target.__name__} with more than kernel_size, stride and padding")
        if target is F.avg_pool2d:
            return self._average(args[0], kernel, stride, padding)
        step = kernel if stride is None else stride
        return self.put(ops.MaxPool(_pair(kernel), _pair(step), _pair(padding), (1, 1), False), args[0])

    def _mean(self, args: Any, kwargs: Any) -> _Number:
        dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
        keep = bool(kwargs.get("keepdim", args[2] if len(args) > 2 else False))
        shape = self.nodes[args[0]].shape
        if len(shape) != 3 or dims is None or sorted(d % 4 for d in torch.Size(_tuple(dims))) != [2, 3]:
            raise InputError("bounds: a mean is known over both image axes only, mean(dim=(2, 3))")
        pooled = self._adaptive(args[0], 1)
        return pooled if keep else self.put(ops.Reshape((shape[0],)), pooled)

    # ---- shapes and arithmetic
    def _reshape(self, args: Any, kwargs: Any, target: Any) -> _Number:
        shape = self.nodes[args[0]].shape
        if target in (torch.flatten, "flatten"):
            start = kwargs.get("start_dim", args[1] if len(args) > 1 else 0)
            end = kwargs.get("end_dim", args[2] if len(args) > 2 else -1) % (len(shape) + 1)
            if start < 1:
                raise InputError("bounds: flatten must leave the batch axis alone; write flatten(x, 1)")
            flat = math.prod(shape[start - 1 : end])
            return self.put(ops.Reshape((*shape[: start - 1], flat, *shape[end:])), args[0])
        sizes = args[1] if len(args) == 2 and isinstance(args[1], tuple | list) else args[1:]
        inner = [item for item in sizes[1:] if isinstance(item, int) and not isinstance(item, _Number)]
        if not sizes or len(inner) != len(sizes) - 1 or not (isinstance(sizes[0], _Shape) or sizes[0] == -1):
            raise InputError("bounds: a view must keep the batch axis, x.view(x.size(0), -1)")
        if -1 in inner:
            known = math.prod(n for n in inner if n != -1)
            inner = [math.prod(shape) // known if n == -1 else n for n in inner]
        return self.put(ops.Reshape(tuple(inner)), args[0])

    def _concatenate(self, args: Any, kwargs: Any) -> _Number:
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        parts = list(args[0])
        dims = len(self.nodes[parts[0]].shape) + 1
        if dim % dims != 1 or not all(isinstance(part, _Number) for part in parts):
            raise InputError("bounds: concatenation is known along axis 1 only, torch.cat([a, b], dim=1)")
        return self.put(ops.Cat(), *parts)

    def _arithmetic(self, kind: str, left: Any, right: Any, kwargs: Any, step: fx.Node) -> _Number:
        if kwargs:
            raise self._unknown(step)
        if isinstance(left, _Number) and isinstance(right, _Number):
            if self.nodes[left].shape != self.nodes[right].shape or kind not in ("add", "sub"):
                raise self._unknown(step)
            if kind == "sub":
                one = torch.ones((), dtype=torch.float64)
                right = self.put(ops.Scale(-one, 0 * one), right)
            return self.put(ops.Add(), left, right)
        node, other = (left, right) if isinstance(left, _Number) else (right, left)
        if not isinstance(node, _Number) or (kind == "div" and node is right):
            raise self._unknown(step)
        return self.put(self._scale(kind, other, node is right, len(self.nodes[node].shape)), node)

    def _scale(self, kind: str, other: Any, reversed_: bool, dims: int) -> ops.Scale:
        constant = torch.as_tensor(other, dtype=torch.float64).detach()
        if constant.dim() == dims + 1 and constant.shape[0] == 1:
            constant = constant[0]
        if constant.dim() > dims:
            raise InputError(f"bounds: a constant of shape {tuple(constant.shape)} depends on the batch")
        one, zero = torch.ones_like(constant), torch.zeros_like(constant)
        if kind == "add":
            return ops.Scale(one, constant)
        if kind == "sub":
            return ops.Scale(-one, constant) if reversed_ else ops.Scale(one, -constant)
        return ops.Scale(constant if kind == "mul" else one / constant, zero)


class _Number(int):
    """A node number, apart from plain integers in the arguments of a traced step."""


class _Shape:
    """A size of the batch or a shape: only views read it."""


def _asks_shape(step: fx.Node, args: Any) -> bool:
    return step.target == "size" or (step.target is getattr and args[1] == "shape")


def _attribute(module: nn.Module, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _bias(bias: Tensor | None, size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.float64) if bias is None else bias.detach()


def _tuple(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[1])) if isinstance(value, tuple | list) else (int(value), int(value))


def _moved(network: Network, device: torch.device) -> Network:
    """All weights on one device."""

    def moved(layer: Layer) -> Layer:
        tensors = {name: item.to(device) for name, item in vars(layer).items() if isinstance(item, Tensor)}
        return type(layer)(**(vars(layer) | tensors))

    return Network(tuple(Node(moved(node.layer), node.inputs, node.shape) for node in network.nodes))
