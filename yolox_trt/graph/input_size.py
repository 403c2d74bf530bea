# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Which input size a model wishes, and the model fixed to another one."""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from yolox_trt.core.documents import parse_json
from yolox_trt.core.errors import FILE_ERRORS, ConfigurationError, ModelError
from yolox_trt.core.input_size import (
    AUTO_FOR,
    AUTO_SIZE,
    OWN_SIZE,
    SIZE_STEP,
    InputSize,
    Size,
    best_size,
    format_size,
    parse_input_size,
)
from yolox_trt.core.model_spec import METADATA_INPUT_SIZE
from yolox_trt.core.option import parse_size
from yolox_trt.core.shipped_files import is_shipped
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.fixed_size import fix_size
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.image_input import read_image_input
from yolox_trt.graph.metadata import read_metadata

if TYPE_CHECKING:
    import onnx

_LOGGER = logging.getLogger(__name__)

#: Counts in the fingerprint of engines built at another size than the model's own: raise it when
#: the same model is fixed in another way.
REVISION = 1

#: Ultralytics' metadata of the size that a model was trained at.
_TRAINED_SIZE = "imgsz"


@refuses_damaged
def wished_size(model: str | Path | onnx.ModelProto | Graph) -> InputSize | None:
    """Return what `input_size` is where nobody sets it, None where the model does not say.

    That is its metadata `yolox_trt.input_size`, a JSON text; the file in models/, which is older
    than this key, wishes "auto". A model that leaves the size open wishes Ultralytics' `imgsz`.
    Of a file the graph is read for `imgsz` alone: a start whose engine is cached parses none.

    Raises:
        ModelError: the metadata holds something else, or the model cannot be read.
    """
    metadata = None
    if isinstance(model, str | Path):
        with contextlib.suppress(Exception):  # Graph.of tells what is wrong with it
            metadata = read_metadata(Path(model))
    graph = None
    if metadata is None or _TRAINED_SIZE in metadata:
        graph = Graph.of(model)
        metadata = graph.metadata
    text = metadata.get(METADATA_INPUT_SIZE)
    if text is None:
        path = graph.path if graph is not None else Path(str(model))
        if path is not None and is_shipped(path):
            return AUTO_SIZE
        return None if graph is None else _trained_size(graph)
    with ModelError.instead_of(
        FILE_ERRORS,
        f"ONNX metadata '{METADATA_INPUT_SIZE}' = {text!r:.80}",
        expected='"auto", "model" or "HxW", as JSON',
        fix="write it again with onnx.helper.set_model_props, or leave it out",
    ):
        try:
            return parse_input_size(parse_json(text))
        except ConfigurationError as error:
            raise ValueError(error.found) from None


def _trained_size(graph: Graph) -> Size | None:
    """Return the size that Ultralytics' exporter notes of a model that leaves it open."""
    text = graph.metadata.get(_TRAINED_SIZE)
    sizes = (graph.image.shape or ())[2:]
    if text is None or all(isinstance(d, int) and d > 0 for d in sizes):
        return None
    try:
        height, width = parse_json(text)
    except (ValueError, TypeError):
        return None  # it says nothing that a reader must hear: the size is asked for
    whole = all(type(side) is int and side > 0 for side in (height, width))
    return (height, width) if whole else None


def has_other_size(graph: Graph, size: Size) -> bool:
    """Whether another size than this (height, width) is built into a model; not if it is open."""
    built_in = (graph.image.shape or ())[2:]
    return any(
        isinstance(d, int) and d > 0 and d != s for d, s in zip(built_in, size, strict=False)
    )


def with_size(graph: Graph, size: Size) -> Graph:
    """Return a model whose input has this size: itself where it has it already, else a copy.

    Args:
        graph: the model; it is not changed.
        size: (height, width) in pixels.

    Raises:
        ConfigurationError: a side that is no multiple of 32.
        ModelError: what was written for the model's own size cannot be derived again.
    """
    shape = graph.image.shape
    if shape is not None and tuple(shape[2:]) == size:
        return graph
    if any(side < 1 or side % SIZE_STEP for side in size):
        raise ConfigurationError(
            f"input size {format_size(size)}",
            expected=f"multiples of {SIZE_STEP}",
            fix="give another size, auto, or model",
        )
    fixed = graph.copy()
    fix_size(fixed, None, *size)
    return fixed


def tool_size(graph: Graph, asked: InputSize | None, pictures: Iterable[Size] = ()) -> Size | None:
    """Return the (height, width) that a tool's `input_size` names, None for the model's own.

    Args:
        graph: the model.
        asked: what parse_tool_size gives.
        pictures: (height, width) of the images that "auto" is for; of several shapes it is the
            size that fits most of them.

    Raises:
        ConfigurationError: "auto" without images.
        ModelError: the model has no size to start from.
    """
    if asked is None or asked == OWN_SIZE:
        return None
    if isinstance(asked, tuple):
        return asked
    shapes = [parse_size(asked.removeprefix(AUTO_FOR))] if asked != AUTO_SIZE else list(pictures)
    if not shapes:
        raise ConfigurationError(
            "input size auto without images that it would fit",
            expected=f"HxW, {OWN_SIZE}, or {AUTO_FOR}HxW",
            fix=f"give the size of the camera's images, such as {AUTO_FOR}1080x1920",
        )
    image = read_image_input(graph)
    own, step = (image.input_height, image.input_width), SIZE_STEP
    if image.spec is not None:
        step = image.spec.size_step
    sizes = Counter(best_size(own, shape, step) for shape in shapes)
    ((size, count),) = sizes.most_common(1)
    _LOGGER.log(
        logging.INFO if count == len(shapes) else logging.WARNING,
        "input size %s, which fits %d of %d images best",
        *(format_size(size), count, len(shapes)),
    )
    return size


def note_wish(graph: Graph, size: Size | None) -> None:
    """Keep a model's wish in its metadata, for a copy of it whose path tells none.

    Args:
        graph: is changed.
        size: that the user gives it for good: from then on it wishes that, and no longer "auto".
    """
    wish = wished_size(graph)
    if wish is not None and size is not None:
        wish = OWN_SIZE
    if isinstance(wish, str):
        graph.metadata[METADATA_INPUT_SIZE] = json.dumps(wish)
