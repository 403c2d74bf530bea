# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ImageInput: the image that a network takes, whatever it gives."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from yolox_trt.core.errors import ModelError
from yolox_trt.core.model_spec import METADATA_PREPROCESSING, ModelSpec, Preprocessing
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.inference import describe
from yolox_trt.graph.single_input import single_input, sizes_input
from yolox_trt.graph.spec import detection_head, read_spec
from yolox_trt.graph.values import Array, Value

if TYPE_CHECKING:
    import onnx

#: A size that any detector takes, to look at a graph that leaves its own open.
ANY_SIZE = (640, 640)
_DTYPES = ("float32", "float16", "uint8")


@dataclass(frozen=True)
class ImageInput:
    """The image input of a network.

    Attributes:
        input_name: its name.
        input_height: rows in pixels.
        input_width: columns in pixels.
        batch: images in one run, or None where the graph leaves it open.
        input_dtype: numpy name of its element type, "float32", "float16" or "uint8".
        channels_last: whether it is (N, H, W, 3), and not (N, 3, H, W).
        preprocessing: what its values mean.
        spec: the detector's description; None of a network that is none of a known form.
    """

    input_name: str
    input_height: int
    input_width: int
    batch: int | None
    input_dtype: str
    channels_last: bool
    preprocessing: Preprocessing
    spec: ModelSpec | None

    @classmethod
    def of(cls, spec: ModelSpec) -> ImageInput:
        """Return the input of a described network."""
        return cls(
            spec.input_name,
            spec.input_height,
            spec.input_width,
            spec.batch,
            spec.input_dtype,
            False,
            spec.preprocessing,
            spec,
        )

    def arrange(self, images: Array) -> Array:
        """Return images (N, 3, H, W) in the order of axes that the network takes."""
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if self.channels_last else images

    def normalize(self, images: Array) -> Array:
        """Return what the network takes of images uint8 (N, 3, H, W), BGR, of its size."""
        multiplier, offset = self.preprocessing.factors
        values = images if self.preprocessing.color_order == "bgr" else images[:, ::-1]
        if not self.preprocessing.is_identity:
            values = values * np.reshape(multiplier, (1, 3, 1, 1))
            values = values + np.reshape(offset, (1, 3, 1, 1))
        return self.arrange(np.ascontiguousarray(values.astype(self.input_dtype)))


@refuses_damaged
def read_image_input(
    model: str | Path | onnx.ModelProto | Graph,
    *,
    preprocessing: Preprocessing | None = None,
    input_size: tuple[int, int] | None = None,
) -> ImageInput:
    """Find the image that a network takes.

    Args:
        model: path of an ONNX file, a loaded model, or a graph (none of them is changed).
        preprocessing: what the input expects; None takes the metadata's, else what is usual for the
            detector, else BGR 0..255.
        input_size: (height, width) in pixels for a graph that leaves them open.

    Raises:
        ModelError: the file cannot be read, there is not one image of three channels and a fixed
            size, or the metadata cannot be read.
    """
    graph = Graph.of(model)
    image = _image_of(graph)
    assert image.shape is not None
    sizes = [d if isinstance(d, int) and d > 0 else None for d in image.shape]
    channels_last = is_channels_last(image)
    fixed = sizes[1:3] if channels_last else sizes[2:]
    if input_size is not None:
        if any(f not in (a, None) for f, a in zip(fixed, input_size, strict=True)):
            raise ModelError(
                f"input size {input_size[0]}x{input_size[1]} (H x W) asked for",
                expected=f"{fixed[0]}x{fixed[1]}, which the graph fixes",
                fix="make a model of this size (yolox_trt optimize MODEL --input-size HxW -o OUT), "
                "or leave the input size out",
            )
        fixed = list(input_size)
    height, width = fixed
    if height is None or width is None:
        raise ModelError(
            f"input '{image.name}' {describe(image.shape)} with open height or width",
            expected="a fixed H x W",
            fix="fix it (yolox_trt optimize MODEL --input-size HxW -o OUT), or export without "
            "dynamic height and width",
        )
    spec: ModelSpec | None = None
    if not channels_last:
        with contextlib.suppress(ModelError):
            spec = read_spec(graph, preprocessing=preprocessing, input_size=(height, width))
    if spec is not None:
        preprocessing = spec.preprocessing
    if preprocessing is None:
        text = graph.metadata.get(METADATA_PREPROCESSING)
        preprocessing = Preprocessing.from_json(text) if text else Preprocessing()
    batch, dtype = sizes[0], str(image.dtype)
    return ImageInput(image.name, height, width, batch, dtype, channels_last, preprocessing, spec)


def is_channels_last(image: Value) -> bool:
    """Whether an image input is (N, H, W, 3): three channels at the end, and not after the batch.

    Where all sizes are open, a Transpose to channels first that reads it tells.
    """
    shape = image.shape or ()
    if len(shape) != 4 or shape[1] in (1, 3):
        return False
    if shape[3] in (1, 3):
        return True
    moved = [
        list(n.attrs.get("perm", [])) == [0, 3, 1, 2] for n in image.readers if n.op != "Shape"
    ]
    return not isinstance(shape[1], int) and bool(moved) and all(moved)


@refuses_damaged
def why_no_yolox(graph: Graph, size: tuple[int, int] | None = None) -> str:
    """Return "" where the outputs are those of a YOLOX, whose head can be cut; else the reason.

    Args:
        graph: the graph.
        size: (height, width) in pixels for a graph that leaves them open.
    """
    try:
        spec = read_spec(graph, input_size=size)
        head = detection_head(graph, (spec.input_height, spec.input_width))
        head.levels(head.parts())  # behind EfficientNMS_TRT there may be any detector
    except ModelError as error:
        return error.found
    return ""


@refuses_damaged
def take_image_alone(graph: Graph) -> list[str]:
    """Make a constant of the second input that some detectors take, the size of the image.

    Args:
        graph: it is changed where it has such an input.

    Returns:
        One line for each change; see graph.single_input.

    Raises:
        ModelError: it has one, but is no known detector.
    """
    return [] if sizes_input(graph) is None else single_input(graph, read_spec(graph))


def _image_of(graph: Graph) -> Value:
    images = [value for value in graph.inputs if len(value.shape or ()) == 4]
    described = ", ".join(f"{v.name} {describe(v.shape)}" for v in graph.inputs) or "none"
    if len(images) != 1:
        raise ModelError(
            f"inputs {described}",
            expected="one image, (N, 3, H, W) or (N, H, W, 3)",
            fix="export the model with one image as its input",
        )
    image = images[0]
    assert image.shape is not None
    channels = image.shape[3] if is_channels_last(image) else image.shape[1]
    if channels not in (3, None) and isinstance(channels, int):
        focus = ", and its Focus in the graph" if channels == 12 else ""
        raise ModelError(
            f"input {described} of {channels} channels",
            expected="an image of 3 channels",
            fix=f"export it for images of 3 channels, BGR or RGB{focus}",
        )
    if str(image.dtype) not in _DTYPES:
        raise ModelError(
            f"input {image.name} of type {image.dtype}",
            expected=" or ".join(_DTYPES),
            fix="export the model with an image of one of these types",
        )
    return image
