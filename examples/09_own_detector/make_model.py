# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Write spots.onnx: the mean brightness of each 32 x 32 cell as a score, and boxes of one cell."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CELL, CELLS = 32, 10
SIZE = CELL * CELLS

weights = np.full((1, 3, CELL, CELL), 1 / (3 * CELL * CELL * 255), np.float32)
graph = helper.make_graph(
    [
        helper.make_node("Conv", ["images", "mean"], ["heat"], strides=[CELL, CELL]),
        helper.make_node("Concat", ["heat", "heat"], ["both"], axis=1),
        helper.make_node("Mul", ["both", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "side"], ["sides"]),
    ],
    "spots",
    [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
    [
        helper.make_tensor_value_info("heat", TensorProto.FLOAT, [1, 1, CELLS, CELLS]),
        helper.make_tensor_value_info("sides", TensorProto.FLOAT, [1, 2, CELLS, CELLS]),
    ],
    [
        numpy_helper.from_array(weights, "mean"),
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.float32(CELL), "side"),
    ],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
onnx.checker.check_model(model)
onnx.save(model, "spots.onnx")
