# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The rewrites are exact: in double precision nothing is left of the differences.

In single precision a rewritten network differs in the last bits, and the layers behind amplify
them. onnx's reference evaluator in float64 tells rounding from a wrong rewrite.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from support.passes import apply
from support.yolox_graphs import build_yolox, random_images

from yolox_trt.compiler.surgery import SurgeryOptions, optimize
from yolox_trt.compiler.surgery.fixed_shape import FixedShape


def in_double(model: onnx.ModelProto) -> ReferenceEvaluator:
    """Return an evaluator of the model with all floats as doubles."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in [*copy.graph.input, *copy.graph.output, *copy.graph.value_info]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return ReferenceEvaluator(copy)


def difference(model: onnx.ModelProto, **options) -> float:
    """Return max |after - before| / max |before| of an optimised model, in double precision."""
    result = optimize(model, SurgeryOptions(target="dla", sigmoid="keep", **options)).model
    feeds = {k: v.astype(np.float64) for k, v in random_images(model).items()}
    (before,) = in_double(model).run(None, feeds)
    raw = in_double(result).run(None, feeds)
    channels = before.shape[2]
    levels = [np.concatenate(raw[i : i + 3], 1).reshape(1, channels, -1) for i in (0, 3, 6)]
    after = np.concatenate(levels, 2).transpose(0, 2, 1)
    assert before.std() > 0.01 and np.isfinite(before).all()
    return float(np.abs(after - before).max() / np.abs(before).max())


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "export",
    [
        {},
        {"style": "opset13", "upsample": "sizes"},
        {"stem": "focus_joint", "stem_kernel": 5, "focus_order": ((1, 1), (0, 0), (1, 0), (0, 1))},
        {"channel_swap": "split", "depthwise": True},
        {"upsample": "half_pixel", "activation": "relu6"},
    ],
    ids=str,
)
def test_nothing_is_left_in_double_precision(export) -> None:
    assert difference(build_yolox(num_classes=5, **export)) < 1e-12


def test_the_published_nano_in_double_precision(data_dir) -> None:
    path = data_dir / "models" / "yolox_nano.onnx"
    if not path.is_file():
        pytest.skip(f"no {path}")
    assert (
        difference(
            apply(
                FixedShape(SurgeryOptions(batch=1, input_size=(64, 96))), onnx.load(str(path))
            ).model
        )
        < 1e-12
    )
