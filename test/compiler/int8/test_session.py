# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Which models run image by image, and what is said of the others."""

import numpy as np
import onnxruntime as ort
import pytest
from support.int8_graphs import convolution, half_input, small

from yolox_trt.compiler.int8.collect import collect_statistics
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.sensitivity import (
    LayerErrors,
    layer_sensitivity,
)
from yolox_trt.compiler.int8.session import Session
from yolox_trt.core.errors import EngineError, ModelError


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: convolution(batch=4), "batch of 4.*--open-batch"),
        (half_input, "type float16.*FP32 model"),
        (lambda: small(head="efficient_nms"), "EfficientNMS_TRT.*--head raw"),
    ],
)
def test_models_that_do_not_take_one_float_image_are_refused(make, match):
    model = make()
    with pytest.raises(ModelError, match=match):
        collect_statistics(model, [np.ones((1, 3, 4, 4), np.float32)])
    with pytest.raises(ModelError, match=match):
        LayerErrors(model, [])


def test_what_onnx_runtime_says_is_in_the_error():
    model = convolution()
    with pytest.raises(EngineError, match=r"does not run the model \(.*Got invalid dimensions"):
        collect_statistics(model, [np.ones((1, 3, 5, 5), np.float32)], tensors=["y"])
    model.nodes[0].attrs["group"] = 2
    with pytest.raises(EngineError, match=r"does not run the model|cannot load the model"):
        layer_sensitivity(model, DynamicRanges(), [np.ones((1, 3, 4, 4), np.float32)])


def test_threads_that_wait_leave_their_cores_to_others(monkeypatch):
    made, options = ort.InferenceSession, []
    monkeypatch.setattr(
        ort, "InferenceSession", lambda model, o, **k: options.append(o) or made(model, o, **k)
    )
    Session(convolution(), purpose="a test").run(np.ones((1, 3, 4, 4), np.float32))
    key = "session.intra_op.allow_spinning"
    assert [each.get_session_config_entry(key) for each in options] == ["0"]
