# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""YOLOX graphs as the usual exporters write them, with random weights, built with onnx alone.

    from support.yolox_graphs import build_yolox, random_images

    model = build_yolox()                              # the fewest layers, 64 x 96, opset 11
    model = build_yolox(**NANO)                        # with bottlenecks: residual Adds
    model = build_yolox(width=0.5, height=640, width_px=640)              # YOLOX-S
    model = build_yolox(style="opset13", batch=None, head="decoded")      # Shape chains, dynamic N
    model = build_yolox(activation="relu6", stem="conv", spp="chained", head="raw_levels")
    images = random_images(model, batch=1)             # {input name: float32 (N, 3, H, W), 0..255}

Structure and channel counts are those of the published YOLOX configurations (CSPDarknet with a
Focus stem and SPP 5/9/13, path-aggregation neck, decoupled head). Names of tensors follow the
exporter: numbers for "opset11", module paths for "opset13". The same arguments give the same
model bytes. Weights are scaled so that activations neither vanish nor explode; detections mean
nothing.

Options of build_yolox:
    depth, width       YOLOX multiples (nano 0.33, 0.25; tiny 0.33, 0.375; s 0.33, 0.5;
                       m 0.67, 0.75); the defaults are 0, without bottlenecks, and 0.125
    depthwise          3 x 3 convolutions as depthwise + 1 x 1 (published nano)
    num_classes, height, width_px, batch (None: dynamic), dynamic_size (H and W symbolic too; needs
                       style="opset13"), seed
    style              "opset11": initialisers, batch norm folded, constant reshapes (onnxsim'ed)
                       "opset13": Constant nodes, Shape-Gather-Concat before each Reshape, Identity
    batch_norm         keep BatchNormalization nodes
    activation         "silu", "relu", "relu6", "lrelu", "hardswish", "hardswish_op" (one HardSwish
                       node, opset 14)
    stem               "focus": 8 slices (2 x 4), "focus_joint": 4 slices over both axes,
                       "conv": one 6 x 6 stride 2 convolution
    focus_order        (row, column) offsets in the order of the Concat; YOLOX: TL BL TR BR
    stem_kernel        kernel of the Focus convolution, 1, 3 or 5
    channel_swap       None, "gather", "slice" (step -1), "split": RGB <-> BGR before the stem
    normalize          None, "sub_div" (x / 255 - mean) / std, "mul" (x * 1/255)
    spp                "parallel" 5/9/13, "chained" three 5 x 5, "none"
    upsample           "scales" (Resize asymmetric floor), "sizes" (computed by Shape chain),
                       "half_pixel" (half_pixel, round_prefer_ceil: the same values for 2x)
    head               "undecoded" (N, A, 5 + C), "decoded" (exp, grids, strides in the graph),
                       "decoded_in_place" (the same by ScatterND, as older YOLOX; fixed batch),
                       "raw_levels" (reg_8, obj_8, cls_8, ...), "efficient_nms" (EfficientNMS_TRT;
                       ONNX Runtime cannot run it)
    sigmoid            objectness and classes as probabilities (raw_levels only; others always)
    segmentation       None, or a head on the features of stride 8: "logits" (N, C, h, w), "softmax"
                       of them, "argmax" (N, h, w) int64, or "argmax_kept" (N, 1, h, w)
    mask_classes, mask_stride   of it (stride 1, 2, 4, 8 or 16)
    metadata           class names, preprocessing, strides and sigmoid into metadata_props
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
YOLOX_FOCUS_ORDER = ((0, 0), (1, 0), (0, 1), (1, 1))
#: The multiples of YOLOX-nano.
NANO = {"depth": 0.33, "width": 0.25}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _built_once(build: Callable[..., onnx.ModelProto]) -> Callable[..., onnx.ModelProto]:
    """Give copies of the model that the same arguments have given before: tests change them."""
    built = functools.lru_cache(maxsize=16)(build)

    @functools.wraps(build)
    def copied(**options: Any) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(built(**options))
        return model

    return copied


@_built_once
def build_yolox(
    *,
    depth: float = 0.0,
    width: float = 0.125,
    depthwise: bool = False,
    num_classes: int = 80,
    height: int = 64,
    width_px: int = 96,
    batch: int | None = 1,
    dynamic_size: bool = False,
    style: Literal["opset11", "opset13"] = "opset11",
    batch_norm: bool = False,
    activation: str = "silu",
    stem: str = "focus",
    focus_order: Sequence[tuple[int, int]] = YOLOX_FOCUS_ORDER,
    stem_kernel: int = 3,
    channel_swap: str | None = None,
    normalize: str | None = None,
    spp: str = "parallel",
    upsample: str = "scales",
    head: str = "undecoded",
    sigmoid: bool = True,
    segmentation: str | None = None,
    mask_classes: int = 5,
    mask_stride: int = 4,
    metadata: bool = False,
    seed: int = 0,
) -> onnx.ModelProto:
    """Return a checked YOLOX ONNX model; the options are in the module's docstring."""
    if dynamic_size and (style != "opset13" or head not in ("undecoded", "raw_levels")):
        raise ValueError("dynamic_size needs style='opset13' and head undecoded or raw_levels")
    opset = {"opset11": 11, "opset13": 13}[style]
    if activation == "hardswish_op":
        opset = max(opset, 14)
    g = _Graph(style, seed, batch_norm, activation, depthwise)

    def ch(base: int) -> int:
        return int(base * width)

    c1, c2, c3, c4, c5 = (ch(64 * 2**i) for i in range(5))
    n = max(round(depth * 3), 1) if depth else 0
    x = "images"
    x = _input_ops(g, x, channel_swap, normalize)
    with g.scope("backbone", "backbone"):
        x = _stem(g, x, c1, stem, focus_order, stem_kernel)
        with g.scope("dark2"):
            x = g.spatial(x, c1, c2, 3, 2)
            x = _csp(g, x, c2, c2, n, shortcut=True)
        with g.scope("dark3"):
            x = g.spatial(x, c2, c3, 3, 2)
            p3 = x = _csp(g, x, c3, c3, 3 * n, shortcut=True)
        with g.scope("dark4"):
            x = g.spatial(x, c3, c4, 3, 2)
            p4 = x = _csp(g, x, c4, c4, 3 * n, shortcut=True)
        with g.scope("dark5"):
            x = g.spatial(x, c4, c5, 3, 2)
            if spp != "none":
                x = _spp(g, x, c5, spp)
            p5 = _csp(g, x, c5, c5, n, shortcut=False)
    m = round(3 * depth)
    with g.scope("backbone"):
        lateral5 = g.conv(p5, c5, c4, 1)
        x = g.concat(g.upsample(lateral5, upsample, 32, height, width_px), p4)
        x = _csp(g, x, 2 * c4, c4, m, shortcut=False)
        lateral4 = g.conv(x, c4, c3, 1)
        x = g.concat(g.upsample(lateral4, upsample, 16, height, width_px), p3)
        out3 = _csp(g, x, 2 * c3, c3, m, shortcut=False)
        x = g.concat(g.spatial(out3, c3, c3, 3, 2), lateral4)
        out4 = _csp(g, x, 2 * c3, c4, m, shortcut=False)
        x = g.concat(g.spatial(out4, c4, c4, 3, 2), lateral5)
        out5 = _csp(g, x, 2 * c4, c5, m, shortcut=False)
    outputs = _head(
        g, (out3, out4, out5), (c3, c4, c5), ch(256), num_classes, head, sigmoid,
        batch, height, width_px,
    )  # fmt: skip

    if segmentation is not None:
        features = (out4, 16, c4) if mask_stride == 16 else (out3, 8, c3)
        outputs.append(
            _mask_head(g, *features, segmentation, mask_classes, mask_stride, height, width_px)
        )

    n_dim: int | str = "batch" if batch is None else batch
    h_dim, w_dim = ("height", "width") if dynamic_size else (height, width_px)
    graph = helper.make_graph(
        g.nodes,
        "main_graph" if style == "opset13" else "torch-jit-export",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [n_dim, 3, h_dim, w_dim])],
        [
            helper.make_tensor_value_info(name, dtype, [n_dim if batch is None else batch, *shape])
            for name, dtype, shape in outputs
        ],
        g.initializers,
    )
    if dynamic_size:
        for output in graph.output:
            for i, dim in enumerate(output.type.tensor_type.shape.dim):
                if i in (1, 2, 3) and i != (2 if head == "undecoded" else 1):
                    dim.Clear()
                    dim.dim_param = f"{output.name}_{i}"
    opsets = [helper.make_opsetid("", opset)]
    if head == "efficient_nms":
        opsets.append(helper.make_opsetid("TRT", 1))
    model = helper.make_model(graph, opset_imports=opsets, producer_name="pytorch")
    model.ir_version = 7 if opset < 14 else 8
    if metadata:
        helper.set_model_props(
            model,
            {
                "yolox_trt.class_names": json.dumps([f"class{i}" for i in range(num_classes)]),
                "yolox_trt.strides": json.dumps(list(STRIDES)),
                "yolox_trt.sigmoid": json.dumps(sigmoid),
                "yolox_trt.preprocessing": json.dumps({"color_order": "bgr"}),
            },
        )
    onnx.checker.check_model(model)
    return model


def build_yolox_s(height: int = 640, width_px: int = 640, **options: Any) -> onnx.ModelProto:
    """Return YOLOX-S as its official export: 8.97 M parameters, 26.8 GFLOPs at 640 x 640."""
    return build_yolox(depth=0.33, width=0.5, height=height, width_px=width_px, **options)


def random_images(
    model: onnx.ModelProto, batch: int = 1, *, height: int = 64, width: int = 96, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return smooth random images for the model's inputs: (N, 3, H, W), 0..255, the input's dtype.

    Dynamic dimensions take `batch`, `height` and `width`.
    """
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        fallback = (batch, 3, height, width)
        shape = [d.dim_value or f for d, f in zip(tensor.shape.dim, fallback, strict=True)]
        # Blocks of 8 x 8 pixels with some noise on top: images have low frequencies.
        coarse = rng.uniform(0, 255, (shape[0], shape[1], shape[2] // 8, shape[3] // 8))
        image = np.kron(coarse, np.ones((1, 1, 8, 8))) + rng.normal(0, 8, shape)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        feeds[value.name] = np.clip(np.rint(image), 0, 255).astype(dtype)
    return feeds


class _Scope:
    def __init__(self, graph: _Graph, parts: tuple[str, ...]) -> None:
        self.graph, self.parts = graph, parts

    def __enter__(self) -> None:
        self.graph.path.extend(self.parts)

    def __exit__(self, *_: object) -> None:
        del self.graph.path[-len(self.parts) :]


class _Graph:
    """Nodes and initialisers under construction."""

    def __init__(
        self, style: str, seed: int, batch_norm: bool, activation: str, depthwise: bool
    ) -> None:
        self.style, self.batch_norm, self.activation = style, batch_norm, activation
        self.depthwise = depthwise
        self.input_scale = 128.0  # typical magnitude of what the first convolution sees
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.path: list[str] = []
        self.counter = 0
        self.constants: dict[tuple[Any, ...], str] = {}

    def scope(self, *parts: str) -> _Scope:
        return _Scope(self, parts)

    def name(self, kind: str) -> str:
        self.counter += 1
        if self.style == "opset11":
            return str(self.counter)
        return "/" + "/".join([*self.path, f"{kind}_{self.counter}"])

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        name = self.name(kind)
        out = out or (name if self.style == "opset11" else f"{name}_output_0")
        node_name = f"{kind}_{name}" if self.style == "opset11" else name
        self.nodes.append(helper.make_node(kind, inputs, [out], node_name, **attributes))
        return out

    def const(self, value: Any, dtype: Any = np.int64) -> str:
        """A small constant: shared initialiser (opset11) or Constant node (opset13)."""
        array = np.asarray(value, dtype)
        if self.style == "opset13":
            return self.op("Constant", value=numpy_helper.from_array(array))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = self.weight(self.name("const"), array)
        return self.constants[key]

    def weight(self, name: str, array: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def raw_conv(
        self, x: str, cin: int, cout: int, k: int, s: int = 1, *, groups: int = 1,
        bias: bool = True, gain: float = 1.45, pads: int | None = None, name: str | None = None,
    ) -> str:  # fmt: skip
        fan_in = cin // groups * k * k
        weight = self.rng.normal(0, gain / np.sqrt(fan_in), (cout, cin // groups, k, k))
        if fan_in > 1:
            # Activations have positive means; without this they add up from layer to layer.
            weight -= weight.mean((1, 2, 3), keepdims=True)
        base = name or self.name("conv").lstrip("/").replace("/", ".")
        inputs = [x, self.weight(f"{base}.weight", weight.astype(np.float32))]
        if bias:
            b = self.rng.normal(0, 0.3, cout).astype(np.float32)
            inputs.append(self.weight(f"{base}.bias", b))
        p = (k - 1) // 2 if pads is None else pads
        return self.op(
            "Conv", *inputs, dilations=[1, 1], group=groups, kernel_shape=[k, k],
            pads=[p] * 4, strides=[s, s],
        )  # fmt: skip

    def act(self, x: str) -> str:
        kind = self.activation
        if kind == "silu":
            return self.op("Mul", x, self.op("Sigmoid", x))
        if kind == "relu":
            return self.op("Relu", x)
        if kind == "lrelu":
            return self.op("LeakyRelu", x, alpha=0.1)
        if kind == "relu6":
            return self.op("Clip", x, self.const(0.0, np.float32), self.const(6.0, np.float32))
        if kind == "hardswish":
            return self.op("Mul", x, self.op("HardSigmoid", x, alpha=1.0 / 6.0, beta=0.5))
        if kind == "hardswish_op":
            return self.op("HardSwish", x)
        raise ValueError(kind)

    def conv(
        self, x: str, cin: int, cout: int, k: int, s: int = 1, groups: int = 1,
        first: bool = False, pads: int | None = None,
    ) -> str:  # fmt: skip
        """Convolution, batch norm (folded or not), activation."""
        gain = 2.5 / self.input_scale if first else 1.45
        with self.scope("conv"):
            x = self.raw_conv(
                x, cin, cout, k, s, groups=groups, bias=not self.batch_norm, gain=gain, pads=pads
            )
        if self.batch_norm:
            base = self.name("bn").lstrip("/").replace("/", ".")
            values = (
                self.rng.uniform(0.7, 1.3, cout),
                self.rng.normal(0, 0.1, cout),
                self.rng.normal(0, 0.1, cout),
                self.rng.uniform(0.7, 1.3, cout),
            )
            names = ("weight", "bias", "running_mean", "running_var")
            inputs = [
                self.weight(f"{base}.{n}", v.astype(np.float32))
                for n, v in zip(names, values, strict=True)
            ]
            x = self.op("BatchNormalization", x, *inputs, epsilon=1e-3, momentum=0.97)
        with self.scope("act"):
            return self.act(x)

    def spatial(self, x: str, cin: int, cout: int, k: int, s: int = 1) -> str:
        """k x k convolution, depthwise + 1 x 1 where the network is depthwise."""
        if not self.depthwise:
            return self.conv(x, cin, cout, k, s)
        return self.conv(self.conv(x, cin, cin, k, s, groups=cin), cin, cout, 1)

    def concat(self, *inputs: str, axis: int = 1) -> str:
        return self.op("Concat", *inputs, axis=axis)

    def upsample(self, x: str, mode: str, stride: int, height: int, width: int) -> str:
        common = {"mode": "nearest", "nearest_mode": "floor"}
        asymmetric = {"coordinate_transformation_mode": "asymmetric", **common}
        empty = self.const([], np.float32)
        if mode == "scales":
            scales = self.const([1, 1, 2, 2], np.float32)
            return self.op("Resize", x, empty, scales, **asymmetric)
        if mode == "half_pixel":
            scales = self.const([1, 1, 2, 2], np.float32)
            return self.op(
                "Resize", x, empty, scales, mode="nearest", nearest_mode="round_prefer_ceil",
                coordinate_transformation_mode="half_pixel",
            )  # fmt: skip
        if mode != "sizes":
            raise ValueError(mode)
        if self.style == "opset11":
            raise ValueError("upsample='sizes' needs style='opset13'")
        shape = self.op("Shape", x)
        nc = self.op("Slice", shape, self.const([0]), self.const([2]), self.const([0]))
        axes = [self.op("Gather", shape, self.const(i), axis=0) for i in (2, 3)]
        doubled = [
            self.op("Unsqueeze", self.op("Mul", a, self.const(2)), self.const([0])) for a in axes
        ]
        sizes = self.concat(nc, *doubled, axis=0)
        return self.op("Resize", x, "", "", sizes, **asymmetric)


def _input_ops(g: _Graph, x: str, swap: str | None, normalize: str | None) -> str:
    if swap == "gather":
        x = g.op("Gather", x, g.const([2, 1, 0]), axis=1)
    elif swap == "slice":
        x = g.op("Slice", x, g.const([2]), g.const([-(2**31)]), g.const([1]), g.const([-1]))
    elif swap == "split":
        names = [g.name("split") for _ in range(3)]
        if g.style == "opset13":
            node = helper.make_node("Split", [x, g.const([1, 1, 1])], names, axis=1, name="swap")
        else:
            node = helper.make_node("Split", [x], names, axis=1, split=[1, 1, 1], name="swap")
        g.nodes.append(node)
        x = g.concat(*reversed(names))
    elif swap is not None:
        raise ValueError(swap)
    if normalize == "sub_div":
        x = g.op("Div", x, g.const(255.0, np.float32))
        x = g.op("Sub", x, g.const(np.reshape(IMAGENET_MEAN, (1, 3, 1, 1)), np.float32))
        x = g.op("Div", x, g.const(np.reshape(IMAGENET_STD, (1, 3, 1, 1)), np.float32))
        g.input_scale = 1.0
    elif normalize == "mul":
        x = g.op("Mul", x, g.const(1.0 / 255.0, np.float32))
        g.input_scale = 0.5
    elif normalize is not None:
        raise ValueError(normalize)
    return x


def _stem(
    g: _Graph, x: str, c1: int, stem: str, order: Sequence[tuple[int, int]], kernel: int
) -> str:
    with g.scope("stem"):
        if stem == "conv":
            return g.conv(x, 3, c1, 6, 2, first=True, pads=2)
        parts = []
        end = g.const([2**63 - 1])
        for row, column in order:
            if stem == "focus_joint":
                both = g.const([2**63 - 1] * 2)
                parts.append(
                    g.op("Slice", x, g.const([row, column]), both, g.const([2, 3]), g.const([2, 2]))
                )
            elif stem == "focus":
                rows = g.op("Slice", x, g.const([row]), end, g.const([2]), g.const([2]))
                parts.append(
                    g.op("Slice", rows, g.const([column]), end, g.const([3]), g.const([2]))
                )
            else:
                raise ValueError(stem)
        return g.conv(g.concat(*parts), 12, c1, kernel, first=True)


def _csp(g: _Graph, x: str, cin: int, cout: int, n: int, *, shortcut: bool) -> str:
    hidden = int(cout * 0.5)
    y1 = g.conv(x, cin, hidden, 1)
    y2 = g.conv(x, cin, hidden, 1)
    for _ in range(n):
        y = g.spatial(g.conv(y1, hidden, hidden, 1), hidden, hidden, 3)
        y1 = g.op("Add", y, y1) if shortcut else y
    return g.conv(g.concat(y1, y2), 2 * hidden, cout, 1)


def _spp(g: _Graph, x: str, c: int, form: str) -> str:
    hidden = c // 2
    x = g.conv(x, c, hidden, 1)

    def pool(y: str, k: int) -> str:
        return g.op("MaxPool", y, kernel_shape=[k, k], pads=[k // 2] * 4, strides=[1, 1])

    if form == "parallel":
        pools = [pool(x, k) for k in (5, 9, 13)]
    elif form == "chained":
        p5 = pool(x, 5)
        p9 = pool(p5, 5)
        pools = [p5, p9, pool(p9, 5)]
    else:
        raise ValueError(form)
    return g.conv(g.concat(x, *pools), 4 * hidden, c, 1)


def _head(
    g: _Graph, features: Sequence[str], channels: Sequence[int], hidden: int, classes: int,
    form: str, sigmoid: bool, batch: int | None, height: int, width: int,
) -> list[tuple[str, int, list[int]]]:  # fmt: skip
    probabilities = sigmoid or form != "raw_levels"
    levels = []
    raw: list[tuple[str, int, list[int]]] = []
    for i, (x, c, stride) in enumerate(zip(features, channels, STRIDES, strict=True)):
        grid = [height // stride, width // stride]
        with g.scope("head"):
            x = g.conv(x, c, hidden, 1)
            y = x
            for _ in range(2):
                y = g.spatial(y, hidden, hidden, 3)
            cls = g.raw_conv(y, hidden, classes, 1, name=f"head.cls_preds.{i}")
            y = x
            for _ in range(2):
                y = g.spatial(y, hidden, hidden, 3)
            reg = g.raw_conv(y, hidden, 4, 1, name=f"head.reg_preds.{i}", gain=0.5)
            obj = g.raw_conv(y, hidden, 1, 1, name=f"head.obj_preds.{i}")
            if form == "raw_levels":
                tensors = (reg, obj, cls)
                kinds = ("reg", "obj", "cls")
                for kind, tensor, n in zip(kinds, tensors, (4, 1, classes), strict=True):
                    name = f"{kind}_{stride}"
                    if probabilities and kind != "reg":
                        g.op("Sigmoid", tensor, out=name)
                    else:
                        # The exporter names a convolution's output where it is a graph output.
                        for node in g.nodes:
                            if node.output[0] == tensor:
                                node.output[0] = name
                    raw.append((name, TensorProto.FLOAT, [n, *grid]))
                continue
            level = g.concat(reg, g.op("Sigmoid", obj), g.op("Sigmoid", cls))
            if g.style == "opset13":
                shape = g.op("Shape", level)
                n_c = [
                    g.op("Unsqueeze", g.op("Gather", shape, g.const(d), axis=0), g.const([0]))
                    for d in (0, 1)
                ]
                target = g.concat(*n_c, g.const([-1]), axis=0)
            else:
                target = g.const([-1 if batch is None else batch, 5 + classes, -1])
            levels.append(g.op("Reshape", level, target))
    if form == "raw_levels":
        return raw
    anchors = sum(height // s * (width // s) for s in STRIDES)
    shape = [anchors, 5 + classes]
    with g.scope("head"):
        flat = g.concat(*levels, axis=2)
        if form == "undecoded":
            g.op("Transpose", flat, perm=[0, 2, 1], out="output")
            return [("output", TensorProto.FLOAT, shape)]
        flat = g.op("Transpose", flat, perm=[0, 2, 1])

        def part(x: str, start: int, end: int) -> str:
            return g.op("Slice", x, g.const([start]), g.const([end]), g.const([2]), g.const([1]))

        corners, strides = [], []
        for stride in STRIDES:
            yy, xx = np.mgrid[0 : height // stride, 0 : width // stride]
            corners.append(np.stack((xx, yy), -1).reshape(-1, 2))
            strides.append(np.full((len(corners[-1]), 1), stride))
        grid_xy = g.const(np.concatenate(corners)[None], np.float32)
        scale = g.const(np.concatenate(strides)[None], np.float32)
        xy = g.op("Mul", g.op("Add", part(flat, 0, 2), grid_xy), scale)
        wh = g.op("Mul", g.op("Exp", part(flat, 2, 4)), scale)
        if form == "decoded":
            rest = part(flat, 4, 5 + classes)
            g.op("Concat", xy, wh, rest, axis=2, out="output")
            return [("output", TensorProto.FLOAT, shape)]
        if form == "decoded_in_place":
            assert batch is not None

            def write(x: str, first: int, values: str, out: str | None = None) -> str:
                axes = (range(batch), range(anchors), range(first, first + 2))
                places = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
                return g.op("ScatterND", x, g.const(places), values, out=out)

            write(write(flat, 0, xy), 2, wh, out="output")
            return [("output", TensorProto.FLOAT, shape)]
        if form != "efficient_nms":
            raise ValueError(form)
        boxes = g.concat(xy, wh, axis=2)
        scores = g.op("Mul", part(flat, 4, 5), part(flat, 5, 5 + classes))
    outputs = ["num_dets", "det_boxes", "det_scores", "det_classes"]
    g.nodes.append(
        helper.make_node(
            "EfficientNMS_TRT", [boxes, scores], outputs, "EfficientNMS", domain="TRT",
            background_class=-1, box_coding=1, iou_threshold=0.45, max_output_boxes=100,
            plugin_version="1", score_activation=0, score_threshold=0.25,
        )
    )  # fmt: skip
    int32, float32 = TensorProto.INT32, TensorProto.FLOAT
    return [
        ("num_dets", int32, [1]),
        ("det_boxes", float32, [100, 4]),
        ("det_scores", float32, [100]),
        ("det_classes", int32, [100]),
    ]


def _mask_head(
    g: _Graph, x: str, stride: int, channels: int, form: str, classes: int, wanted: int,
    height: int, width: int,
) -> tuple[str, int, list[int]]:  # fmt: skip
    """A convolution, an upsampling and the classes; the name of the output says nothing."""
    grid = [height // wanted, width // wanted]
    with g.scope("pixels"):
        x = g.raw_conv(g.conv(x, channels, channels, 3), channels, classes, 1)
        while stride > wanted:
            x, stride = g.upsample(x, "scales", stride, height, width), stride // 2
        if form == "logits":
            g.op("Identity", x, out="pixels")
        elif form == "softmax":
            g.op("Softmax", x, axis=1, out="pixels")
        elif form in ("argmax", "argmax_kept"):
            kept = int(form == "argmax_kept")
            g.op("ArgMax", x, axis=1, keepdims=kept, out="pixels")
            return "pixels", TensorProto.INT64, [*[1] * kept, *grid]
        else:
            raise ValueError(form)
    return "pixels", TensorProto.FLOAT, [classes, *grid]
