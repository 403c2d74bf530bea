# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""create_detector: which engine it takes, what it says, what it refuses."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from support.yolox_graphs import build_yolox

from yolox_trt.core import ConfigurationError, Device, EngineError, ModelError
from yolox_trt.core.frame import Frame
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors import factory
from yolox_trt.detectors.cpu_detector import CpuDetector
from yolox_trt.detectors.factory import DetectorRequest, create_detector

HERE = __name__


def refuse(request: DetectorRequest) -> Any:
    raise EngineError(f"no {request.device} here")


def accept(request: DetectorRequest) -> Any:
    return request


def test_cpu() -> None:
    detector = create_detector(build_yolox(num_classes=3), "cpu", threads=1)
    assert isinstance(detector, CpuDetector)
    assert detector.device == Device("cpu")


def test_a_model_of_batch_1_takes_batches_on_the_cpu() -> None:
    detector = create_detector(build_yolox(num_classes=3), "cpu", threads=1, max_batch=3)
    assert detector.max_batch == 3
    frames = [
        Frame.from_array(np.random.default_rng(i).integers(0, 256, (60, 90, 3), np.uint8))
        for i in range(3)
    ]
    options = [PostprocessOptions(0.01)] * 3
    together = detector.detect(frames, options)
    for frame, found in zip(frames, together, strict=True):
        (alone,) = detector.detect([frame], options[:1])
        np.testing.assert_allclose(found.boxes, alone.boxes, rtol=1e-4, atol=1e-3)


def test_auto_falls_back_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(factory.BACKENDS, ("tensorrt", "gpu"), f"{HERE}:refuse")
    monkeypatch.setitem(factory.BACKENDS, ("onnxruntime", "gpu"), "yolox_trt.no_such_module:f")
    with caplog.at_level(logging.INFO):
        detector = create_detector(build_yolox(num_classes=3))
    assert detector.device == Device("cpu")
    record = caplog.records[-1]
    assert record.levelno == logging.WARNING
    assert "engine onnxruntime on cpu" in record.message
    assert "not tensorrt on gpu: no gpu here" in record.message
    assert "yolox_trt.no_such_module" in record.message


def test_packages_that_are_missing_are_no_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for key in [k for k in factory.BACKENDS if k[1] == "gpu"]:
        monkeypatch.setitem(factory.BACKENDS, key, "yolox_trt.no_such_module:f")
    with caplog.at_level(logging.INFO, logger="yolox_trt.detectors.factory"):
        assert create_detector(build_yolox(num_classes=3)).device == Device("cpu")
    assert caplog.records[-1].levelno == logging.INFO
    assert "not tensorrt on gpu" in caplog.records[-1].message


def test_a_named_device_does_not_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in [k for k in factory.BACKENDS if k[1] == "gpu"]:
        monkeypatch.setitem(factory.BACKENDS, key, f"{HERE}:refuse")
    with pytest.raises(EngineError, match=r"tensorrt on gpu:1: no gpu:1.*onnxruntime on gpu:1"):
        create_detector(build_yolox(num_classes=3), "gpu:1")


def test_reasons_and_remedies_of_several_engines_do_not_mix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(request: DetectorRequest) -> Any:
        raise EngineError("a broken driver", expected="a working one", fix="mend the driver")

    monkeypatch.setitem(globals(), "refuse", broken)
    for key in [k for k in factory.BACKENDS if k[1] == "gpu"]:
        monkeypatch.setitem(factory.BACKENDS, key, f"{HERE}:refuse")
    with pytest.raises(EngineError) as caught:
        create_detector(build_yolox(num_classes=3), "gpu")
    assert caught.value.found == (
        "no engine for the model (tensorrt on gpu: a broken driver, and onnxruntime on gpu: a "
        "broken driver)"
    )
    assert str(caught.value).count("expected") == str(caught.value).count("fix: ") == 1
    assert caught.value.fix.startswith("for tensorrt on gpu: mend the driver, or for onnxruntime")


def test_order_and_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(factory.BACKENDS, ("tensorrt", "gpu"), f"{HERE}:accept")
    request: Any = create_detector(
        "model.engine", "gpu", preprocessing="rgb_unit", precision="int8", cache="/tmp/cache"
    )
    assert request.is_engine_file
    assert request.preprocessing.color_order == "rgb"
    assert (request.precision, request.options) == ("int8", {"cache": "/tmp/cache"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "tpu"}, "device 'tpu'"),
        ({"engine": "openvino"}, "engine 'openvino'"),
        ({"preprocessing": "hsv"}, "preprocessing 'hsv'"),
        ({"device": "dla0", "engine": "onnxruntime"}, "onnxruntime' on dla0"),
        ({"device": "cpu", "engine": "tensorrt"}, "tensorrt' on cpu"),
        ({"device": "cpu", "model": "a.engine"}, "on cpu for a.engine"),
    ],
)
def test_wrong_parameters(arguments: dict[str, Any], message: str) -> None:
    arguments = {"model": "model.onnx", "device": "cpu"} | arguments
    with pytest.raises(ConfigurationError, match=message):
        create_detector(arguments.pop("model"), arguments.pop("device"), **arguments)


def test_a_wrong_model_is_an_error_of_its_own() -> None:
    with pytest.raises(ModelError, match="no file"):
        create_detector("/nowhere/model.onnx", "cpu")


def test_precision_that_the_cpu_has_not() -> None:
    with pytest.raises(EngineError, match="int8"):
        create_detector(build_yolox(num_classes=3), "cpu", precision="int8")


@pytest.mark.parametrize("target", sorted(set(factory.BACKENDS.values())))
def test_backends_exist(target: str) -> None:
    """Every entry of the table names a module of this package (its own imports may be missing)."""
    import importlib.util

    module, _, function = target.partition(":")
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None
    with open(found.origin, encoding="utf-8") as source:
        assert f"def {function}(request: DetectorRequest)" in source.read()
