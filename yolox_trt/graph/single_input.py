# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Makes a detector's graph one that takes an image alone and gives nothing beside detections.

RT-DETR, D-FINE and DEIM are exported with a second input, `orig_target_sizes`: the size in whose
pixels boxes come out, (width, height) as int64 (N, 2) (RT-DETR's export_onnx.py). Here that is the
size of the network's input always, so that boxes go the same way back as all others: a constant.
"""

from __future__ import annotations

import re

import numpy as np

from yolox_trt.core.errors import ModelError
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Value

_NAME = re.compile(r"size|shape|target", re.IGNORECASE)


def sizes_input(graph: Graph) -> Value | None:
    """Return the input that takes the size of the image, beside the image; None without one."""
    if len(graph.inputs) != 2:
        return None
    for value in graph.inputs:
        shape = value.shape or ()
        if len(shape) == 2 and shape[1] == 2 and _NAME.search(value.name):
            return value
    return None


@refuses_damaged
def single_input(graph: Graph, spec: ModelSpec) -> list[str]:
    """Leave of a graph what its description names: one input, and the outputs of its heads.

    Args:
        graph: it is changed.
        spec: its description.

    Returns:
        One line for each change; [] where there was nothing to do.

    Raises:
        ModelError: the description's outputs are not those of the graph.
    """
    changes = []
    if (sizes := sizes_input(graph)) is not None:
        # One row for all images: the graph repeats or broadcasts it.
        rows = spec.batch or 1
        values = np.array([[spec.input_width, spec.input_height]] * rows, sizes.dtype)
        graph.inputs = [value for value in graph.inputs if value is not sizes]
        name = sizes.name
        sizes.become_constant(values)
        changes.append(f"input '{name}' is {spec.input_width}x{spec.input_height} (W x H)")
    outputs = [value for value in graph.outputs if value.name in spec.tensor_names]
    if len(outputs) != len(spec.tensor_names):
        raise ModelError(
            f"outputs {', '.join(value.name for value in graph.outputs)}",
            expected=", ".join(spec.tensor_names),
            fix="read the model again",
        )
    if len(outputs) != len(graph.outputs):
        left_out = ", ".join(v.name for v in graph.outputs if v not in outputs)
        graph.outputs = outputs
        graph.sort()  # without what only the others needed
        changes.append(f"outputs left out: {left_out}")
    return changes
