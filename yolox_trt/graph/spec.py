# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Finds the ModelSpec of a YOLOX in its ONNX graph.

Nothing is read from names (they differ between exporters) where the graph itself tells it. The
head is what lies between the outputs and the last convolutions: three convolutions a level (box 4,
objectness 1, classes C channels), or fewer where an optimiser merged them. Their sizes give the
strides and the class count, an Exp behind them means that boxes are decoded in the graph, a
Sigmoid that scores are probabilities.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.core import model_spec
from yolox_trt.core.errors import ModelError
from yolox_trt.core.labels import default_class_names
from yolox_trt.core.model_spec import HeadLayout, HeadLevel, HeadTensor, ModelSpec, Preprocessing
from yolox_trt.core.optional import require
from yolox_trt.engines.engine_file import refuse_engine

if TYPE_CHECKING:
    import onnx

_EXPECTED = (
    "a YOLOX: one image input (N, 3, H, W) and as outputs (N, A, 5 + C), or box, objectness and "
    "class tensors of each level (N, channels, h, w), or the four of EfficientNMS_TRT"
)
_FIX = "export it with YOLOX's tools/export_onnx.py, or give another model"

_CONVOLUTIONS = frozenset({"Conv", "QLinearConv", "ConvInteger", "FusedConv"})
#: Operators that keep each channel where it is.
_CHANNELWISE = frozenset(
    {"Identity", "Cast", "Sigmoid", "QuantizeLinear", "DequantizeLinear", "Relu", "Clip"}
)
#: Tensors up to this many elements may be sizes, axes or targets.
_SMALL = 64
_INPUT_DTYPES = ("float32", "float16", "uint8")


def read_spec(
    model: str | Path | onnx.ModelProto,
    *,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    input_size: tuple[int, int] | None = None,
) -> ModelSpec:
    """Find what a YOLOX network takes and gives.

    Args:
        model: path of an ONNX file, or the loaded model (it is not changed).
        preprocessing: what the input expects; None takes the metadata's, else YOLOX >= 0.1.1's
            (BGR 0..255). A graph cannot tell it: a 0.1.0 model needs the argument.
        class_names: names of the classes; None takes the metadata's, else COCO's for 80 classes.
        input_size: (height, width) in pixels for a graph that leaves them open.

    Returns:
        The description; its class_names are () where nothing names the classes.

    Raises:
        ModelError: the file cannot be read, or it is not a YOLOX that this package can run.
        MissingDependencyError: the Python module onnx is missing.
    """
    graph = _Graph(_load(model), input_size)
    strides = graph.metadata_list(model_spec.METADATA_STRIDES)
    image = graph.image
    names = graph.output_names
    nms = next((n for n in graph.nodes if n.op_type.startswith("EfficientNMS")), None)
    levels: tuple[HeadLevel, ...] = ()
    sigmoid = True
    if nms is not None:
        head = HeadLayout.EFFICIENT_NMS
        names, num_classes = _efficient_nms(graph, nms)
    else:
        ranks = {name: len(graph.shapes.get(name, ())) for name in names}
        if len(names) == 1 and ranks[names[0]] != 4:
            head, levels, num_classes = _single_tensor(graph, names[0])
        elif all(rank == 4 for rank in ranks.values()):
            head = HeadLayout.RAW_LEVELS
            levels, num_classes = _raw_levels(graph)
        else:
            raise graph.error("outputs of mixed rank", "cut other outputs off the graph")
        found = tuple(level.stride for level in levels)
        if strides and not _same_numbers(strides, found):
            raise graph.error(f"strides {found} in the graph, {tuple(strides)} in the metadata")
        sigmoid = graph.has_sigmoid()
        declared = graph.metadata.get(model_spec.METADATA_SIGMOID)
        if declared is not None and declared.strip().lower() != json.dumps(sigmoid):
            raise graph.error(
                f"sigmoid {'' if sigmoid else 'not '}in the graph, but metadata says {declared}"
            )
    step = max((level.stride for level in levels), default=32)
    if image.height % step or image.width % step:
        raise graph.error(
            f"input of {image.height}x{image.width} (H x W), not a multiple of stride {step}"
        )
    if preprocessing is None:
        text = graph.metadata.get(model_spec.METADATA_PREPROCESSING)
        preprocessing = Preprocessing.from_json(text) if text else Preprocessing()
    return ModelSpec(
        input_name=image.name,
        input_height=image.height,
        input_width=image.width,
        batch=image.batch,
        num_classes=num_classes,
        head=head,
        output_names=names,
        levels=levels,
        input_dtype=image.dtype,
        sigmoid=sigmoid,
        preprocessing=preprocessing,
        class_names=_class_names(graph, class_names, num_classes),
    )


@dataclass(frozen=True)
class _Image:
    """The graph's image input."""

    name: str
    batch: int | None
    height: int
    width: int
    dtype: str


@dataclass(frozen=True)
class _Part:
    """A convolution of the head (or an output that comes from none), with its channels."""

    tensor: str
    channels: int
    height: int
    width: int
    feature: str  # the convolution's input
    output: str = ""  # the graph output that carries it (raw levels)
    offset: int = 0  # its first channel there


class _Graph:
    """Look-ups in an ONNX graph: producers, inferred shapes, metadata, the head's nodes."""

    def __init__(self, model: onnx.ModelProto, input_size: tuple[int, int] | None) -> None:
        import onnx

        self._onnx = onnx
        self.metadata = {p.key: p.value for p in model.metadata_props}
        # The names are in the input model; shape inference works on a copy.
        initializers = {i.name for i in model.graph.initializer}
        inputs = [i for i in model.graph.input if i.name not in initializers]
        self.output_names = tuple(o.name for o in model.graph.output)
        self.shapes: dict[str, tuple[int | None, ...]] = {}
        self._note_shapes(inputs)
        self._note_shapes(model.graph.output)
        self.image = self._find_image(inputs, input_size)
        self._infer(model, input_size)
        self.nodes = list(self._model.graph.node)
        self.producers = {name: node for node in self.nodes for name in node.output if name}
        self._head: list[onnx.NodeProto] = []
        self._convs: list[onnx.NodeProto] = []
        self._walk_head()

    def error(self, found: str, fix: str = _FIX) -> ModelError:
        """Make the error of a graph that is not understood; it lists inputs and outputs."""
        outputs = ", ".join(f"{name} {self._text(name)}" for name in self.output_names[:12])
        return ModelError(f"{found} (outputs: {outputs})", expected=_EXPECTED, fix=fix)

    def metadata_list(self, key: str) -> list[Any]:
        """Return a JSON list from the metadata, [] where it is missing."""
        text = self.metadata.get(key)
        if not text:
            return []
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        if not isinstance(values, list):
            raise ModelError(
                f"ONNX metadata '{key}' = {text!r}",
                expected="a JSON list",
                fix="write it again with onnx.helper.set_model_props, or leave it out",
            )
        return values

    def parts(self) -> list[_Part]:
        """Return the head's last convolutions, in the order in which the outputs join them."""
        return [self._part(conv.output[0], conv) for conv in self._convs]

    def channel_layout(self, tensor: str) -> list[_Part] | None:
        """Return the convolutions in the channels of an NCHW tensor, or None if it is not plain."""
        node = self.producers.get(tensor)
        if node is None:
            return None
        if node.op_type in _CONVOLUTIONS:
            return [self._part(tensor, node)]
        if node.op_type == "Concat" and self.attribute(node, "axis", 0) in (1, -3):
            layouts = [self.channel_layout(name) for name in node.input]
            return None if None in layouts else [p for parts in layouts if parts for p in parts]
        if node.op_type in _CHANNELWISE:
            return self.channel_layout(node.input[0])
        return None

    def attribute(self, node: onnx.NodeProto, name: str, default: Any = None) -> Any:
        """Return a node's attribute, or the default."""
        for attribute in node.attribute:
            if attribute.name == name:
                return self._onnx.helper.get_attribute_value(attribute)
        return default

    def has_exp(self) -> bool:
        """Whether the head decodes width and height (exp) in the graph."""
        return any(node.op_type == "Exp" for node in self._head)

    def has_sigmoid(self) -> bool:
        """Whether scores come out as probabilities."""
        return any(node.op_type == "Sigmoid" for node in self._head)

    def has_anchor_free_box(self) -> bool:
        """Whether nothing in the head belongs to other detectors (softmax of DFL boxes, top-k)."""
        others = {
            "Softmax",
            "TopK",
            "NonMaxSuppression",
            "ArgMax",
            "ReduceMax",
            "LayerNormalization",
        }
        return not any(node.op_type in others for node in self._head)

    def source(self, tensor: str) -> tuple[onnx.NodeProto | None, str]:
        """Follow a tensor back through Identity and Cast to the node that makes it."""
        node = self.producers.get(tensor)
        while node is not None and node.op_type in ("Identity", "Cast"):
            tensor = node.input[0]
            node = self.producers.get(tensor)
        return node, tensor

    def _text(self, name: str) -> str:
        shape = self.shapes.get(name)
        return "of unknown shape" if shape is None else str(shape).replace("None", "?")

    def _note_shapes(self, values: Iterable[onnx.ValueInfoProto]) -> None:
        for value in values:
            kind = value.type.tensor_type
            if kind.HasField("shape"):
                self.shapes[value.name] = tuple(d.dim_value or None for d in kind.shape.dim)

    def _find_image(
        self, inputs: list[onnx.ValueInfoProto], input_size: tuple[int, int] | None
    ) -> _Image:
        described = ", ".join(f"{i.name} {self._text(i.name)}" for i in inputs) or "none"
        if len(inputs) != 1:
            raise self.error(f"{len(inputs)} inputs ({described})")
        name = inputs[0].name
        shape = self.shapes.get(name, ())
        if len(shape) != 4 or shape[1] not in (3, None) or (shape[1] is None and shape[3] == 3):
            raise self.error(f"input {described}", "export it with an NCHW image input")
        element = inputs[0].type.tensor_type.elem_type
        dtype = str(self._onnx.helper.tensor_dtype_to_np_dtype(element))
        if dtype not in _INPUT_DTYPES:
            raise self.error(f"input {name} of type {dtype} (not {', '.join(_INPUT_DTYPES)})")
        batch, _, height, width = shape
        if input_size is not None:
            if (height or input_size[0], width or input_size[1]) != tuple(input_size):
                raise ModelError(
                    f"input size {input_size[0]}x{input_size[1]} (H x W) asked for",
                    expected=f"{height}x{width}, which the graph fixes",
                    fix=_fix_size(*input_size),
                )
            height, width = input_size
        if height is None or width is None:
            raise ModelError(
                f"input {described} with open height or width",
                expected="a fixed H x W",
                fix="give the input size (`--input-size HxW`), or export without dynamic "
                "height and width",
            )
        return _Image(name, batch, height, width, dtype)

    def _infer(self, model: onnx.ModelProto, input_size: tuple[int, int] | None) -> None:
        onnx = self._onnx
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        if copy.functions:
            copy = onnx.inliner.inline_local_functions(copy)
        if input_size is not None:
            for value in copy.graph.input:
                if value.name == self.image.name:
                    dims = value.type.tensor_type.shape.dim
                    dims[2].dim_value, dims[3].dim_value = input_size
            for value in copy.graph.output:
                value.type.tensor_type.ClearField("shape")
                self.shapes.pop(value.name, None)
            del copy.graph.value_info[:]
        try:
            copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
        except Exception as error:  # onnx raises its own C++ errors, without a common base
            raise self.error(f"shapes that cannot be inferred ({error})") from error
        self._note_shapes(copy.graph.value_info)
        for value in copy.graph.output:
            kind = value.type.tensor_type
            if kind.HasField("shape"):
                new = tuple(d.dim_value or None for d in kind.shape.dim)
                old = self.shapes.get(value.name, (None,) * len(new))
                self.shapes[value.name] = (
                    tuple(n or o for n, o in zip(new, old, strict=True))
                    if len(new) == len(old)
                    else new
                )
        self._model = copy

    def _walk_head(self) -> None:
        """Collect the nodes between the outputs and the last convolutions, depth first."""
        seen: set[int] = set()
        stack = list(reversed(self.output_names))
        while stack:
            node = self.producers.get(stack.pop())
            if node is None or id(node) in seen:
                continue
            seen.add(id(node))
            if node.op_type in _CONVOLUTIONS:
                self._convs.append(node)
            elif node.op_type not in ("Shape", "Constant"):
                # Shape only reads sizes: what lies behind it is not the head.
                self._head.append(node)
                stack.extend(reversed(node.input))

    def _part(self, tensor: str, node: onnx.NodeProto | None) -> _Part:
        shape = self.shapes.get(tensor, ())
        if len(shape) != 4 or None in shape[1:]:
            fix = "simplify the model (onnxslim MODEL OUT), or export with fixed sizes"
            if any(other.domain == "com.microsoft" for other in self.nodes):
                fix = "export it with Q/DQ nodes (QuantFormat.QDQ) in place of ONNX Runtime's own"
            raise self.error(f"tensor '{tensor}' whose size shape inference does not find", fix)
        _, channels, height, width = shape
        assert channels is not None and height is not None and width is not None
        return _Part(tensor, channels, height, width, node.input[0] if node else "")


def _fix_size(height: int, width: int) -> str:
    """Return how a model with a built-in size gets another one."""
    if height > 0 and width > 0 and height % 32 == 0 and width % 32 == 0:
        return (
            f"make a model of this size (yolox_trt optimize MODEL --input-size {height}x{width} "
            "-o OUT), or leave the input size out"
        )
    return (
        "leave the input size out; a model of another size has multiples of 32 (yolox_trt "
        "optimize MODEL --input-size HxW -o OUT)"
    )


def _load(model: str | Path | onnx.ModelProto) -> onnx.ModelProto:
    library = require("onnx", purpose="reading a model's graph")
    if not isinstance(model, str | Path):
        return model
    path = Path(model)
    if not path.is_file():
        raise ModelError(f"no file '{path}'", expected="an ONNX model", fix="check the path")
    refuse_engine(path)
    try:
        # Weights kept in other files are not needed to read the graph.
        loaded: onnx.ModelProto = library.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, whose class differs between versions
        raise ModelError(
            f"'{path}' cannot be read as ONNX ({error})",
            expected="an ONNX file",
            fix="check that the download is complete",
        ) from error
    if not loaded.graph.node:
        raise ModelError(f"'{path}' holds no graph", expected="an ONNX file", fix="check the file")
    _load_small_tensors(loaded, path.parent)
    return loaded


def _load_small_tensors(model: onnx.ModelProto, folder: Path) -> None:
    """Bring the values of small tensors from other files: shapes follow from them."""
    library = require("onnx", purpose="reading a model's graph")
    values = [
        a.t for node in model.graph.node if node.op_type == "Constant" for a in node.attribute
    ]
    for tensor in (*model.graph.initializer, *values):
        external = tensor.data_location == library.TensorProto.EXTERNAL
        if not external or math.prod(tensor.dims) > _SMALL:
            continue
        # What is missing is told where it is needed.
        with contextlib.suppress(OSError, ValueError, library.checker.ValidationError):
            library.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
            tensor.data_location = library.TensorProto.DEFAULT
            del tensor.external_data[:]


def _same_numbers(values: Sequence[Any], expected: Sequence[int]) -> bool:
    try:
        return sorted(values) == sorted(expected)
    except TypeError:
        return False  # not even numbers


def _class_names(
    graph: _Graph, class_names: Sequence[str] | None, num_classes: int
) -> tuple[str, ...]:
    if class_names is None:
        class_names = [str(n) for n in graph.metadata_list(model_spec.METADATA_CLASS_NAMES)]
    if not class_names:
        return default_class_names(num_classes)
    if len(class_names) != num_classes:
        raise ModelError(
            f"{len(class_names)} class names",
            expected=f"{num_classes}, as many as the model has classes",
            fix="set the parameter `label_path` to the model's own label file",
        )
    return tuple(class_names)


def _efficient_nms(graph: _Graph, node: onnx.NodeProto) -> tuple[tuple[str, ...], int]:
    """Return the graph outputs as (num_detections, boxes, scores, classes), and the class count."""
    made_by = {}
    for name in graph.output_names:
        source, tensor = graph.source(name)
        if source is node:
            made_by[tensor] = name
    names = tuple(made_by.get(tensor, "") for tensor in node.output)
    if len(names) != 4 or "" in names or len(graph.output_names) != 4:
        raise graph.error(f"{node.op_type} whose four results are not the graph's four outputs")
    shape = graph.shapes.get(node.input[1], ())
    if len(shape) == 3 and shape[2] is not None:
        return names, shape[2]
    # The scores' shape is often lost behind a plugin or dynamic sizes: the head still has it.
    levels = _levels(graph, graph.parts())
    return names, levels[0][1]


def _single_tensor(graph: _Graph, name: str) -> tuple[HeadLayout, tuple[HeadLevel, ...], int]:
    """Read a model with one output (N, A, 5 + C)."""
    shape = graph.shapes.get(name)
    if shape is not None and len(shape) != 3:
        raise graph.error(f"one output of rank {len(shape)}")
    if not graph.has_anchor_free_box():
        raise graph.error("a head with operators that a YOLOX head does not have")
    found = _levels(graph, graph.parts())
    levels = tuple(level for level, _ in found)
    num_classes = found[0][1]
    anchors = sum(level.height * level.width for level in levels)
    if shape is not None:
        _, rows, columns = shape
        if rows not in (anchors, None) or columns not in (5 + num_classes, None):
            raise graph.error(
                f"output {name} of {rows} x {columns}, while the head's convolutions have "
                f"{anchors} cells and 5 + {num_classes} channels"
            )
    head = HeadLayout.DECODED if graph.has_exp() else HeadLayout.UNDECODED
    return head, levels, num_classes


def _raw_levels(graph: _Graph) -> tuple[tuple[HeadLevel, ...], int]:
    """Read a model whose outputs are (N, channels, h, w), split or concatenated by level."""
    if graph.has_exp():
        raise graph.error("outputs by level that are decoded in the graph")
    parts = []
    for name in graph.output_names:
        whole = graph._part(name, None)
        layout = graph.channel_layout(name)
        if layout is None or sum(p.channels for p in layout) != whole.channels:
            layout = [whole]
        offset = 0
        for part in layout:
            parts.append(
                _Part(
                    part.tensor, part.channels, part.height, part.width, part.feature, name, offset
                )
            )
            offset += part.channels
    found = sorted(_levels(graph, parts), key=lambda item: item[0].stride)
    return tuple(level for level, _ in found), found[0][1]


def _levels(graph: _Graph, parts: Sequence[_Part]) -> list[tuple[HeadLevel, int]]:
    """Group the head's parts by grid size; return each level with its class count."""
    image = graph.image
    by_size: dict[tuple[int, int], list[_Part]] = {}
    for part in parts:
        by_size.setdefault((part.height, part.width), []).append(part)
    levels = []
    for (height, width), members in by_size.items():
        stride = image.height // height
        if stride * height != image.height or stride * width != image.width or stride < 2:
            raise graph.error(
                f"a head convolution of {height}x{width} cells for a {image.height}x{image.width} "
                "input"
            )
        box, objectness, classes, num_classes = _roles(graph, members)
        levels.append((HeadLevel(stride, height, width, box, objectness, classes), num_classes))
    counts = {count for _, count in levels}
    if len(counts) != 1:
        raise graph.error(f"levels with different class counts {sorted(counts)}")
    return levels


def _roles(
    graph: _Graph, members: list[_Part]
) -> tuple[HeadTensor | None, HeadTensor | None, HeadTensor | None, int]:
    """Tell box, objectness and classes of one level apart."""

    def at(part: _Part, channel: int) -> HeadTensor | None:
        return HeadTensor(part.output, part.offset + channel) if part.output else None

    channels = [part.channels for part in members]
    if len(members) == 1 and channels[0] > 5:
        part = members[0]
        return at(part, 0), at(part, 4), at(part, 5), channels[0] - 5
    if len(members) == 2 and 5 in channels:
        # Box and objectness in one convolution: an optimiser merged them.
        first = _pick(members, lambda p: p.channels == 5, r"reg|box|obj")
        other = members[1] if first is members[0] else members[0]
        return at(first, 0), at(first, 4), at(other, 0), other.channels
    if len(members) == 3 and 4 in channels and 1 in channels:
        # Box and objectness read one feature map, classes another one. This settles one class
        # and four classes, where channel counts alone do not.
        features = [part.feature for part in members]
        own = [p for p in members if features.count(p.feature) == 1 and p.feature]
        if len(own) == 1 and sorted(p.channels for p in members if p is not own[0]) == [1, 4]:
            classes = own[0]
        else:
            classes = _pick(members, lambda p: p.channels not in (1, 4), r"cls|class")
            if {p.channels for p in members if p is not classes} != {1, 4}:
                # Neither graph nor names tell: YOLOX's own order is box, objectness, classes.
                classes = members[2]
        rest = [p for p in members if p is not classes]
        if sorted(p.channels for p in rest) == [1, 4]:
            box, objectness = sorted(rest, key=lambda p: -p.channels)
            return at(box, 0), at(objectness, 0), at(classes, 0), classes.channels
    size = f"{members[0].height}x{members[0].width}"
    raise graph.error(
        f"a level of {size} cells whose last convolutions have {channels} channels "
        "(a YOLOX has 4, 1 and C)"
    )


def _pick(members: list[_Part], by_shape: Any, by_name: str) -> _Part:
    """Choose a part by its shape, and among equals by the output's name, else the first."""
    candidates = [p for p in members if by_shape(p)] or members
    named = [p for p in candidates if re.search(by_name, p.output or p.tensor, re.IGNORECASE)]
    return (named or candidates)[0]
