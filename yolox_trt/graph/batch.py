# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Opens the batch of a graph, compares it with what it was, and fits it to what an engine takes."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from yolox_trt.core.errors import ModelError
from yolox_trt.core.model_spec import HeadLayout, ModelSpec
from yolox_trt.graph.batch_axis import BatchAxis
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.image_input import ImageInput
from yolox_trt.graph.onnx_session import check_memory
from yolox_trt.graph.output_values import output_values, worst_difference
from yolox_trt.graph.predictions import (
    predict,
    relative_difference,
    sample_images,
    tolerance_of,
)

if TYPE_CHECKING:
    import onnx

_log = logging.getLogger("yolox_trt.build")

#: Counts in the fingerprint of engines built from an opened graph: raise it when the same model
#: is opened in another way.
REVISION = 1


@refuses_damaged
def open_batch(graph: Graph) -> list[str]:
    """Let a graph take any batch, and return one line for each change.

    Every node is understood: where the batch axis of its inputs is, and of its outputs. Constants
    that name the batch (targets of Reshape and Expand, ends of Slice, sizes of Resize, values that
    are repeated for each image) are written for any batch.

    Args:
        graph: with a fixed batch; one whose batch is open already stays as it is. It is changed
            half way where an error is raised: give a copy of what is needed afterwards.

    Raises:
        ModelError: a node mixes images, drops the batch, or is not understood; it is named.
    """
    shape = graph.image.shape
    assert shape is not None
    if not isinstance(shape[0], int) or not shape[0]:
        return []
    return BatchAxis(graph).open()


@refuses_damaged
def check_open_batch(original: Graph, opened: Graph, spec: ModelSpec) -> float:
    """Run both in ONNX Runtime on the same images, the opened one with more than the old batch.

    Args:
        original: the model with a fixed batch.
        opened: what open_batch made of it.
        spec: the original's description.

    Returns:
        The largest relative difference of boxes, objectness and classes.

    Raises:
        ModelError: an image's predictions differ by more than tolerance_of() allows,
            or ONNX Runtime does not run one of them.
    """
    check_memory(original, (spec.batch or 1) + 1)
    images = sample_images((spec.batch or 1) + 1, spec.input_height, spec.input_width)
    if spec.levels or spec.head is HeadLayout.EFFICIENT_NMS:
        expected = predict(original, images, spec=spec)
        found = predict(opened, images, spec=dataclasses.replace(spec, batch=None))
        difference = relative_difference(expected, found)
    else:
        image = ImageInput.of(spec)
        expected_values = output_values(original, image, images)
        any_batch = dataclasses.replace(image, batch=None)
        difference = worst_difference(expected_values, output_values(opened, any_batch, images))
    tolerance = tolerance_of(original)
    if difference > tolerance:
        raise ModelError(
            f"with an open batch the predictions differ by {difference:.2g} (relative)",
            expected=f"at most {tolerance:g} from those of batch {spec.batch}",
            fix="export the model with an open batch, or leave the batch as it is; please report "
            "the model",
        )
    return difference


@refuses_damaged
def fit_batch(
    graph: Graph, spec: ModelSpec, max_batch: int | None
) -> tuple[onnx.ModelProto | None, ModelSpec, int | None]:
    """Return model, description and largest batch for an engine that takes ONNX as it is.

    A model with another batch built in than is asked for is opened, and compared with what it
    was. If it cannot be, its own batch is taken, with a warning.

    Args:
        graph: the model; it is not changed.
        spec: its description.
        max_batch: what is asked for; None for the model's own.

    Returns:
        The opened model, None where the given one is taken as it is; its description; its largest
        batch.
    """
    if spec.batch is None or max_batch in (None, spec.batch):
        return None, spec, max_batch
    opened, name = graph.copy(), graph.path or "the model"
    try:
        changes = open_batch(opened)
        check_open_batch(graph, opened, spec)
    except ModelError as error:
        _log.warning("%s runs with batch %d, not %d: %s", name, spec.batch, max_batch, error)
        return None, spec, spec.batch
    _log.info(
        "%s has batch %d built in; opened for max_batch %d (%d changes)",
        name,
        spec.batch,
        max_batch,
        len(changes),
    )
    return opened.to_model(), dataclasses.replace(spec, batch=None), max_batch
