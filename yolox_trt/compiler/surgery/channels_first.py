# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ChannelsFirst: an image (N, H, W, 3) as (N, 3, H, W)."""

from __future__ import annotations

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.image_input import is_channels_last
from yolox_trt.graph.inference import describe
from yolox_trt.graph.values import Value


class ChannelsFirst(SurgeryPass):
    """The image input (N, H, W, 3) becomes (N, 3, H, W), with a Transpose behind it.

    TensorFlow's exporters write channels last. This package, TensorRT's convolutions and the DLA
    want channels first; the exporter's own Transpose then meets its inverse (cancel-transposes).
    """

    name = "channels-first"
    summary = "image input (N, H, W, 3) -> (N, 3, H, W)"

    def rewrite(self, graph: Graph, log: PassLog) -> None:
        image = graph.image
        if not is_channels_last(image) or image.shape is None:
            return
        before, readers = image.shape, image.readers
        moved = Value(graph.unused_name(f"{image.name}_channels_last"))
        image.shape = (before[0], before[3], before[1], before[2])
        for node in readers:
            node.replace_input(image, moved)
        order = {"perm": [0, 2, 3, 1]}
        graph.add_node("Transpose", f"{image.name}_transpose", [image], order, output=moved)
        log.change(f"input {image.name}: {describe(before)} -> {describe(image.shape)}")
