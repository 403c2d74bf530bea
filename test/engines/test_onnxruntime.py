# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""OnnxRuntimeEngine: buffers stay in place and hold what ONNX Runtime itself gives."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime
import pytest
from support.yolox_graphs import build_yolox, random_images

from yolox_trt.core import ConfigurationError, EngineError
from yolox_trt.engines.engine import Engine
from yolox_trt.engines.onnxruntime import OnnxRuntimeEngine, available_cores


def run_plainly(model: object, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    data = model.SerializeToString()  # type: ignore[attr-defined]
    return onnxruntime.InferenceSession(data).run(None, feeds)


@pytest.mark.parametrize("head", ["undecoded", "decoded", "raw_levels"])
def test_outputs_equal_a_plain_session(head: str) -> None:
    model = build_yolox(head=head, num_classes=5)
    engine = OnnxRuntimeEngine(model, intra_op_num_threads=1)
    assert isinstance(engine, Engine)
    addresses = [a.ctypes.data for a in (engine.input, *engine.outputs.values())]
    for seed in range(3):
        feeds = random_images(model, seed=seed)
        engine.input[:] = feeds["images"]
        engine.run(1)
        expected = run_plainly(model, feeds)
        for name, value in zip(engine.spec.output_names, expected, strict=True):
            np.testing.assert_allclose(engine.outputs[name], value, rtol=1e-4, atol=1e-4)
    assert addresses == [a.ctypes.data for a in (engine.input, *engine.outputs.values())]


def test_open_batch_runs_any_part_of_it() -> None:
    model = build_yolox(style="opset13", batch=None, num_classes=5)
    engine = OnnxRuntimeEngine(model, max_batch=3)
    images = random_images(model, batch=3)["images"]
    engine.input[:] = images
    engine.run(3)
    whole = engine.outputs["output"].copy()
    engine.outputs["output"][:] = -1
    engine.run(2)
    np.testing.assert_allclose(engine.outputs["output"][:2], whole[:2], rtol=1e-4, atol=1e-4)
    assert (engine.outputs["output"][2] == -1).all()


def test_fixed_batch_runs_whole_and_refuses_another_size() -> None:
    model = build_yolox(batch=2, num_classes=5)
    engine = OnnxRuntimeEngine(model)
    assert engine.max_batch == 2
    engine.input[:] = random_images(model)["images"]
    engine.run(1)
    assert engine.outputs["output"][0].any()
    with pytest.raises(ConfigurationError, match="expected 2, which the model fixes"):
        OnnxRuntimeEngine(model, max_batch=4)
    with pytest.raises(EngineError, match="batch 3"):
        engine.run(3)


def test_half_precision_model_has_half_precision_buffers() -> None:
    import onnx
    from onnx import TensorProto, helper

    model = build_yolox(num_classes=5)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    for node in model.graph.node:
        node.input[:] = ["image32" if n == "images" else n for n in node.input]
    cast = helper.make_node("Cast", ["images"], ["image32"], to=TensorProto.FLOAT)
    model.graph.node.insert(0, cast)
    onnx.checker.check_model(model)
    engine = OnnxRuntimeEngine(model)
    assert engine.input.dtype == np.float16
    engine.run(1)


def test_efficient_nms_is_refused_with_what_to_do() -> None:
    with pytest.raises(EngineError, match="TensorRT engine"):
        OnnxRuntimeEngine(build_yolox(head="efficient_nms"))


def test_closed_engine() -> None:
    engine = OnnxRuntimeEngine(build_yolox(num_classes=5))
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(1)


def test_a_twin_has_buffers_of_its_own_and_outlives_the_other() -> None:
    model = build_yolox(style="opset13", batch=None, num_classes=5)
    engine = OnnxRuntimeEngine(model, max_batch=2, intra_op_num_threads=1)
    twin = engine.twin()
    feeds = [random_images(model, batch=2, seed=seed) for seed in range(2)]
    engine.input[:], twin.input[:] = (each["images"] for each in feeds)
    engine.run(2)
    before = engine.outputs["output"].copy()
    twin.run(1)
    engine.close()
    twin.run(2)
    np.testing.assert_array_equal(engine.outputs["output"], before)
    for each, value in zip(feeds, (before, twin.outputs["output"]), strict=True):
        np.testing.assert_allclose(value, run_plainly(model, each)[0], rtol=1e-4, atol=1e-4)


def test_cores_are_those_that_the_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    assert available_cores() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
