# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Heads of other detectors than YOLOX: which of the known forms a graph's outputs can have.

Each form is described by its project:
    yolov5       https://github.com/ultralytics/yolov5, models/yolo.py, Detect
    yolov8       https://docs.ultralytics.com/reference/nn/modules/head/, Detect
    yolov10      likewise, v10Detect and Detect.postprocess (end2end): corners, score, class
    rtdetr       https://github.com/lyuwenyu/RT-DETR, rtdetr_postprocessor.py and export_onnx.py;
                 D-FINE and DEIM have the same; Ultralytics' RTDETRDecoder joins boxes and scores;
                 Transformers' RTDetrForObjectDetection gives logits and pred_boxes
    efficientdet https://github.com/google/automl/tree/master/efficientdet, anchors.py; as
                 zylo117/Yet-Another-EfficientDet-Pytorch gives it: regression and classification

Shapes alone leave several forms open where a number of classes makes them equal: (N, 300, 6) is
K detections, or queries of two classes. Then the graph, its metadata and names of classes decide,
and where these do not, the reader is asked.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from yolox_trt.core.anchors import ANCHOR_STRIDES, efficientdet_anchors
from yolox_trt.core.errors import ModelError
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.model_spec import BoxFormat, HeadLayout, Preprocessing
from yolox_trt.core.model_types import MODEL_TYPES, OutputShape, custom_detectors
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.head import Head, head_error
from yolox_trt.graph.shape_walk import ShapeWalk
from yolox_trt.graph.values import Node, Value

#: Metadata that Ultralytics writes: class names as a Python dict, what the network is for, and its
#: largest stride.
_NAMES, _TASK, _STRIDE = "names", "task", "stride"
#: Tasks whose boxes are those of detection; what stands beside them is left out.
_TASKS = ("", "detect", "segment", "pose")
#: Strides that detectors of a grid have, ascending.
_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
_YOLOV5_ANCHORS = 3
#: What the networks are trained with, where nothing else is said.
_CENTRED = Preprocessing("rgb", 1.0 / 255.0, resize="centre")
_PREPROCESSING = {
    "yolov5": _CENTRED,
    "yolov8": _CENTRED,
    "yolov10": _CENTRED,
    "rtdetr": Preprocessing("rgb", 1.0 / 255.0, resize="stretch"),
    # Their padding is 0 behind the normalisation: 116 is the mean over the channels, in 0..255.
    "efficientdet": Preprocessing(
        "rgb", 1.0 / 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), pad=116
    ),
    "boxes_scores": _CENTRED,
}
_KNOWN_STRIDES = ("32", "64", "128")
#: A decoder's queries are chosen by these.
_CHOOSES = ("TopK", "NonMaxSuppression")
_SEARCH = 24  # nodes behind a class number


@dataclass(frozen=True)
class Match:
    """A form that the outputs of a graph can have; attributes as in ModelSpec.

    Attributes:
        is_sure: whether no other form fits as well.
    """

    model_type: str
    head: HeadLayout
    num_classes: int
    output_names: tuple[str, ...]
    box_format: BoxFormat = BoxFormat.CXCYWH
    nms: bool = True
    channels_first: bool = False
    sigmoid: bool = True
    stride: int = 32
    is_sure: bool = True

    @property
    def preprocessing(self) -> Preprocessing:
        """What such a network expects, where nothing says so."""
        custom = custom_detectors().get(self.model_type)
        known = custom.preprocessing if custom else _PREPROCESSING.get(self.model_type)
        return known or Preprocessing()


class _Output(NamedTuple):
    value: Value
    shape: tuple[int | None, ...]

    @property
    def name(self) -> str:
        return self.value.name

    def size(self, axis: int) -> int:
        """A size, 0 where it is open."""
        return self.shape[axis] or 0


def ultralytics_names(graph: Graph) -> list[str]:
    """Return the class names that Ultralytics' exporter writes, [] where there are none.

    Raises:
        ModelError: the metadata's text is no dict of numbers and names.
    """
    text = graph.metadata.get(_NAMES, "")
    if not text.strip().startswith("{"):
        return []
    with ModelError.instead_of(
        (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, AttributeError),
        f"ONNX metadata '{_NAMES}' = {text!r:.200}",
        expected="{0: 'name', 1: 'name', ...}",
        fix="write it again with onnx.helper.set_model_props, or leave it out",
    ):
        if len(text) > LIMITS.label_file_bytes:
            raise ValueError("too long")
        names = ast.literal_eval(text)
        return [str(names[number]) for number in sorted(names, key=int)]


def find_head(
    graph: Graph,
    size: tuple[int, int],
    batch: int,
    *,
    known_classes: int | None,
    model_type: str,
    box_format: BoxFormat | None,
    refusal: ModelError | None = None,
) -> Match:
    """Find the form of a graph's outputs.

    Args:
        graph: with inferred types.
        size: (height, width) of its input.
        batch: of its input.
        known_classes: number of class names that are given; None where there are none.
        model_type: "auto", or the name of a kind.
        box_format: what the boxes are, where it is known.
        refusal: why it is no YOLOX, where it was tried as one.

    Raises:
        ModelError: no form fits, or several do.
    """
    task = graph.metadata.get(_TASK, "").strip().lower()
    if task not in _TASKS:
        raise head_error(
            graph,
            f"a network whose metadata says task '{task}'",
            "give a network for detection (task 'detect')",
        )
    finder = _Finder(graph, size, batch, known_classes)
    found = [_with_boxes(graph, match, box_format) for match in finder.matches()]
    if model_type != "auto":
        found = [match for match in found if match.model_type == model_type]
        if not found:
            known = MODEL_TYPES.get(model_type)
            form = known.form if known else "outputs that its class takes"
            raise ModelError(
                head_error(
                    graph,
                    f"outputs that are not those of model type '{model_type}'",
                    shapes=[output.shape for output in finder.outputs],
                ).found,
                expected=f"{form}; the input is {size[0]}x{size[1]}"
                + (f", and there are {known_classes} class names" if known_classes else ""),
                fix="leave the model type out, or choose another one",
            )
    sure = [match for match in found if match.is_sure]
    chosen = sure if len(sure) == 1 or model_type == "auto" else found[:1]
    if len(chosen) == 1:
        stated = graph.metadata.get(_STRIDE, "").strip()
        stride = int(stated) if stated in _KNOWN_STRIDES else 0
        match = _checked(graph, chosen[0], box_format)
        return replace(match, stride=max(match.stride, stride))
    refusal = refusal or head_error(graph, "outputs that are not understood")
    if not found:
        raise refusal
    kinds = " or ".join(dict.fromkeys(match.model_type for match in found))
    raise ModelError(
        refusal.found,
        expected=refusal.expected,
        fix=f"{refusal.fix}; its outputs may be those of {kinds}: name the kind, or give the class "
        "names",
    )


def _with_boxes(graph: Graph, match: Match, box_format: BoxFormat | None) -> Match:
    is_told = match.box_format is BoxFormat.ANCHORS or match.head is HeadLayout.CUSTOM
    return match if box_format is None or is_told else replace(match, box_format=box_format)


def _checked(graph: Graph, match: Match, box_format: BoxFormat | None) -> Match:
    if match.num_classes < 1:
        raise head_error(
            graph,
            f"a {match.model_type} whose outputs do not tell the number of classes",
            "give the class names (a label file with one name a line)",
        )
    if match.model_type == "boxes_scores" and box_format is None:
        raise head_error(
            graph,
            "boxes and scores of an unknown detector",
            "say by the option box format what the four numbers of a box are",
        )
    return match


class _Finder:
    """Looks for forms in one graph."""

    def __init__(
        self, graph: Graph, size: tuple[int, int], batch: int, known_classes: int | None
    ) -> None:
        self.graph, self.size, self.classes = graph, size, known_classes
        walk: ShapeWalk | None = None
        self.outputs: list[_Output] = []
        for value in graph.outputs:
            shape = _numbers(value.shape)
            if None in shape[1:] or not shape:
                # onnx's inference stops where sizes are computed.
                walk = walk or ShapeWalk.over(graph, (batch, 3, *size))
                found = _numbers(walk.shape(value))
                shape = found if len(found) >= len(shape) else shape
            self.outputs.append(_Output(value, shape))
        #: Number of grid cells -> largest stride.
        self.cells = {
            sum((size[0] // s) * (size[1] // s) for s in strides): strides[-1]
            for strides in _STRIDES
            if not (size[0] % strides[-1] or size[1] % strides[-1])
        }
        self.chooses = bool(graph.find(*_CHOOSES))
        planes = [o.size(1) for o in self.outputs if len(o.shape) == 4]
        #: Channels behind the classes that belong to a mask head (its prototypes are an output).
        self.mask_channels = planes[0] if len(planes) == 1 and len(self.outputs) > 1 else 0

    def matches(self) -> Iterator[Match]:
        tables = [o for o in self.outputs if len(o.shape) == 3]
        rows = [o for o in self.outputs if len(o.shape) == 2]
        if len(tables) == 1 and len(rows) == 2:
            yield from self._labels_boxes_scores(tables[0], rows)
        elif len(tables) == 1 and not rows:
            yield from self._one_tensor(tables[0])
        else:
            # EfficientDet's exporters give the anchors too.
            own = [o for o in tables if not (o.size(2) == 4 and o.value.is_constant)]
            own = own if len(own) == 2 else [o for o in own if "anchor" not in o.name.lower()]
            if len(own) == 2 and not rows:
                yield from self._boxes_and_scores(own)
        yield from self._custom()

    # ---- one tensor

    def _one_tensor(self, output: _Output) -> Iterator[Match]:
        first, second = output.size(1), output.size(2)
        if not first or not second:
            return
        # A grid of three anchors in each cell.
        threefold = {_YOLOV5_ANCHORS * cells: stride for cells, stride in self.cells.items()}
        found: list[Match] = []
        if first in threefold and (classes := self._classes_in(second - 5)):
            head = HeadLayout.DECODED
            found = [Match("yolov5", head, classes, (output.name,), stride=threefold[first])]
        elif first in self.cells or second in self.cells:
            stride = self.cells.get(first) or self.cells[second]
            found = [replace(m, stride=stride) for m in self._grid(output, first, second)]
        elif second < first and second > 5 and not self.chooses:
            found = list(self._unknown_rows(output, second))
        yield from found
        if not any(match.is_sure for match in found):
            sure = not found
            for match in self._queries(output, second):
                yield replace(match, is_sure=match.is_sure and sure)

    def _grid(self, output: _Output, first: int, second: int) -> Iterator[Match]:
        """One box a cell: YOLOv8's channels first, or rows with or without objectness."""
        # Is the number of classes that of a head's convolution? Sizes alone may meet by chance.
        convs = self._last_channels([output.value])
        if second in self.cells and (classes := self._classes_in(first - 4, convs)):
            yield Match(
                *("yolov8", HeadLayout.CLASS_SCORES, classes, (output.name,)), channels_first=True
            )
        if first not in self.cells:
            return
        # YOLOv6 gives an objectness of 1; one that a convolution makes is that of a YOLOX, which is
        # not read here.
        plain, behind_object = (self._classes_in(second - offset, convs) for offset in (4, 5))
        sure = bool(plain) != bool(behind_object) and not (behind_object and 1 in convs)
        if plain:
            yield Match(*("yolov8", HeadLayout.CLASS_SCORES, plain, (output.name,)), is_sure=sure)
        if behind_object:
            yield Match(
                *("yolov8", HeadLayout.DECODED, behind_object, (output.name,)), is_sure=sure
            )

    def _unknown_rows(self, output: _Output, columns: int) -> Iterator[Match]:
        """Many rows that are no grid of known strides."""
        for offset, kind, head in (
            (5, "yolov5", HeadLayout.DECODED),
            (4, "yolov8", HeadLayout.CLASS_SCORES),
        ):
            if classes := self._classes_in(columns - offset):
                yield Match(kind, head, classes, (output.name,), is_sure=False)

    def _queries(self, output: _Output, columns: int) -> Iterator[Match]:
        """Few rows: finished detections, or queries that know no duplicates."""
        widths = self._joined(output.value)
        finished = columns >= 6 and (
            columns == 6 or self.mask_channels == columns - 6 or self._task in ("segment", "pose")
        )
        queries = self._classes_in(columns - 4) if self.chooses else 0
        if widths[:1] == [4] and len(widths) == 2:
            finished = False
        elif widths[:1] == [4] and widths[1:3] == [1, 1]:
            queries = 0
        elif self.classes is not None and columns == 4 + self.classes + self.mask_channels:
            finished = finished and columns == 6
        elif finished:
            queries = 0
        sure = bool(finished) != bool(queries)
        if finished:
            classes = self.classes or self._modulus(output.value)
            yield Match(
                *("yolov10", HeadLayout.END_TO_END, classes, (output.name,)),
                box_format=BoxFormat.XYXY,
                nms=False,
                is_sure=sure,
            )
        if queries:
            yield Match(
                *("rtdetr", HeadLayout.CLASS_SCORES, queries, (output.name,)),
                box_format=BoxFormat.CXCYWH_RELATIVE,
                nms=False,
                is_sure=sure,
            )

    # ---- several tensors

    def _labels_boxes_scores(self, boxes: _Output, rows: list[_Output]) -> Iterator[Match]:
        if boxes.size(2) != 4 or any(o.shape[1] not in (boxes.shape[1], None) for o in rows):
            return
        whole = [o for o in rows if str(o.value.dtype).startswith(("int", "uint"))]
        if len(whole) != 1:
            whole = [o for o in rows if re.search(r"label|class|cls", o.name, re.IGNORECASE)]
        if len(whole) != 1:
            return
        (labels,) = whole
        scores = rows[0] if rows[1] is labels else rows[1]
        yield Match(
            "rtdetr",
            HeadLayout.LABELS_BOXES_SCORES,
            self.classes or self._modulus(labels.value),
            (labels.name, boxes.name, scores.name),
            box_format=BoxFormat.XYXY,
            nms=False,
        )

    def _boxes_and_scores(self, tables: list[_Output]) -> Iterator[Match]:
        if tables[0].shape[1] != tables[1].shape[1]:
            return
        four = [o for o in tables if o.size(2) == 4]
        if len(four) == 2:
            four = [o for o in four if re.search(r"box|reg|loc", o.name, re.IGNORECASE)]
        if len(four) != 1:
            return
        (boxes,) = four
        scores = tables[0] if tables[1] is boxes else tables[1]
        anchors, classes = boxes.size(1), scores.size(2)
        if not anchors or self.classes not in (None, classes):
            return
        names = (boxes.name, scores.name)
        form = HeadLayout.BOXES_AND_SCORES
        decoded = Head(self.graph, self.size, [boxes.value]).has("Exp")
        sigmoid = _are_probabilities(scores.value)
        if anchors == len(efficientdet_anchors(*self.size)) and not decoded:
            yield Match(
                *("efficientdet", form, classes, names, BoxFormat.ANCHORS),
                sigmoid=sigmoid,
                stride=ANCHOR_STRIDES[-1],
            )
        elif self.chooses and classes not in self._last_channels([scores.value]):
            relative = BoxFormat.CXCYWH_RELATIVE
            yield Match("rtdetr", form, classes, names, relative, nms=False, sigmoid=sigmoid)
        else:
            yield Match("boxes_scores", form, classes, names, sigmoid=sigmoid)

    def _custom(self) -> Iterator[Match]:
        outputs = tuple(OutputShape(o.name, o.shape, str(o.value.dtype)) for o in self.outputs)
        for name, custom in custom_detectors().items():
            if classes := custom.num_classes(outputs, self.size):
                names = tuple(o.name for o in outputs)
                boxes = BoxFormat.XYXY
                yield Match(name, HeadLayout.CUSTOM, classes, names, boxes, nms=custom.nms)

    # ---- what the graph tells

    @property
    def _task(self) -> str:
        return self.graph.metadata.get(_TASK, "").strip().lower()

    def _classes_in(self, channels: int, convs: set[int] | None = None) -> int:
        """Return the number of classes in some channels, 0 where that cannot be.

        Mask coefficients and key points behind the classes are told by the names of the classes, or
        by the prototypes beside them.
        """
        if self.classes is not None:
            beside = channels - self.classes
            allowed = beside == 0 or beside == self.mask_channels or self._task == "pose"
            return self.classes if beside >= 0 and allowed else 0
        classes = max(channels - self.mask_channels, 0)
        return classes if convs is None or not convs or classes in convs else 0

    def _last_channels(self, values: Sequence[Value]) -> set[int]:
        """Return the numbers of channels that the last convolutions before some outputs make."""
        convs = Head(self.graph, self.size, values).convs
        shapes = [_numbers(conv.outputs[0].shape) for conv in convs]
        return {shape[1] for shape in shapes if len(shape) == 4 and shape[1]}

    def _joined(self, value: Value) -> list[int]:
        """Return the widths that the last Concat joins on the last axis, [] without one."""
        node = value.producer
        while node is not None and node.op in ("Identity", "Cast"):
            node = node.inputs[0].producer
        if node is None or node.op != "Concat":
            return []
        shapes = [_numbers(v.shape) for v in node.inputs]
        if any(len(shape) != 3 for shape in shapes) or node.attrs.get("axis") not in (2, -1):
            return []
        return [shape[2] or 0 for shape in shapes]

    def _modulus(self, value: Value) -> int:
        """Return the number of classes by which a flat index becomes a class; 0 where it is not.

        A top-k over anchors x classes gives index % C, or index - index // C * C.
        """
        stack: list[Node | None] = [value.producer]
        for _ in range(_SEARCH):
            node = stack.pop(0) if stack else None
            if node is None:
                if not stack:
                    break
                continue
            divisor = node.constant(1) if node.op in ("Mod", "Div") else None
            if divisor is not None and divisor.size == 1 and divisor.item() > 1:
                return int(divisor.item())
            if node.op != "TopK":
                stack += [v.producer for v in reversed(node.inputs)]
        return 0


def _numbers(shape: Sequence[object] | None) -> tuple[int | None, ...]:
    return tuple(d if isinstance(d, int) and d > 0 else None for d in shape or ())


def _are_probabilities(value: Value) -> bool:
    """Whether scores come from a sigmoid or a softmax, but for what moves, joins or cuts them."""
    moves = ("Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat")
    # Of a joint tensor the classes are the last part, where its beginning was cut off.
    part, node = 0, value.producer
    while node is not None and node.op in (*moves, "Slice", "Split"):
        starts = node.constant(1) if node.op == "Slice" else None
        if node.outputs[0] is not value or (starts is not None and bool((starts > 0).any())):
            part = -1
        value = node.inputs[part if node.op == "Concat" else 0]
        node = value.producer
    if node is None:
        return False
    if node.op == "Mul":  # an objectness times the classes
        return all(map(_are_probabilities, node.inputs))
    return node.op in ("Sigmoid", "Softmax")
