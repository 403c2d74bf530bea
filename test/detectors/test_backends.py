# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The TensorRT backend, over a stand-in of TensorRT."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from support.fake_tensorrt import FakeTensorRT
from support.tensorrt_fixtures import make_api, pretend_cupy, pretend_gpu, small_model

from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.core.device import Device
from yolox_trt.core.errors import (
    ConfigurationError,
    DeviceError,
    EngineError,
    MissingDependencyError,
)
from yolox_trt.detectors import backends
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.engines import trt_api


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """A Jetson with TensorRT 8.6; the detector is what it is given."""
    fake, api = make_api("8.6")
    monkeypatch.setattr(trt_api, "_loaded", {"tensorrt": api})
    pretend_gpu(monkeypatch)
    cupy = pretend_cupy(monkeypatch)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(backends, "CudaDetector", lambda engine, **options: (engine, options))
    return fake


def create(model: Any, device: str = "gpu", **values: Any) -> tuple[Any, dict[str, Any]]:
    return backends.tensorrt(DetectorOptions(model=model, **values), Device.parse(device))  # type: ignore[return-value]


def test_builds_into_the_given_cache(tmp_path: Path) -> None:
    told: list[str] = []
    engine, detector_options = create(
        small_model(tmp_path),
        engine_cache=tmp_path / "cache",
        on_progress=lambda fraction, phase: told.append(phase),
        cuda={"max_candidates": 100},
        build=BuildOptions(tf32=False),
    )
    assert engine.file.path.parent == tmp_path / "cache"
    assert engine.file.fingerprint.precision == "fp16"
    assert engine.file.fingerprint.options["tf32"] is False
    assert detector_options == {"max_candidates": 100}
    assert told[-1] == "built"


def test_precision_follows_the_model_where_it_is_left_out(tmp_path: Path) -> None:
    path = small_model(tmp_path, style="opset13")
    cache: dict[str, Any] = {"engine_cache": tmp_path}
    ranges = tmp_path / "ranges.json"
    ranges.write_text('{"ranges": {"images": 255.0}}')
    engine, _ = create(path, "dla0", **cache, build=BuildOptions(dynamic_ranges=ranges))
    assert engine.file.fingerprint.precision == "int8"
    engine, _ = create(path, **cache, precision="fp32")
    assert engine.file.fingerprint.precision == "fp32"
    model = onnx.load(str(path))
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    helper = onnx.helper
    for name, kind in (("s", 1), ("z", 3)):
        model.graph.initializer.append(helper.make_tensor(name, kind, [], [1]))
    position = list(model.graph.node).index(conv)
    for offset, (kind, source, target) in enumerate(
        [("QuantizeLinear", conv.input[0], "q"), ("DequantizeLinear", "q", "dq")]
    ):
        node = helper.make_node(kind, [source, "s", "z"], [target], kind)
        model.graph.node.insert(position + offset, node)
    conv.input[0] = "dq"
    engine, _ = create(model, **cache)
    assert engine.file.fingerprint.precision == "int8"


def test_engine_files(tmp_path: Path) -> None:
    engine, _ = create(small_model(tmp_path), engine_cache=tmp_path)
    again, _ = create(engine.file.path)
    assert again.file.path == engine.file.path
    with pytest.raises(EngineError, match=r"in fp16; expected int8"):
        create(engine.file.path, precision="int8")


def test_nothing_is_built_where_it_cannot_run(
    tmp_path: Path, fake: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(tmp_path)
    pretend_gpu(monkeypatch, None)
    with pytest.raises(DeviceError, match="no CUDA device 0"):
        create(model, engine_cache=tmp_path)
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(MissingDependencyError, match="cupy"):
        create(model, engine_cache=tmp_path)
    assert "Builder" not in fake.names_called()


def test_size_and_batch_of_the_request(tmp_path: Path) -> None:
    model = small_model(tmp_path, batch=None, style="opset13")
    engine, _ = create(model, input_size=(64, 96), max_batch=2, engine_cache=tmp_path)
    assert engine.input.shape == (2, 3, 64, 96)
    # A size that is built in is another engine's at another size.
    built = [create(model, input_size=size, engine_cache=tmp_path)[0] for size in (None, (96, 64))]
    assert [engine.spec.input_size for engine in built] == [(64, 96), (96, 64)]
    own, resized = (engine.file.fingerprint for engine in built)
    assert (resized.height, resized.width) == (96, 64) and own.key != resized.key
    assert "input_size" in resized.options["rewriting"] and not own.options["rewriting"]
    again, _ = create(model, input_size=(96, 64), engine_cache=tmp_path)
    assert again.file.path == built[1].file.path
    with pytest.raises(EngineError, match=r"of input size 96x64; expected 64x96"):
        create(built[1].file.path, input_size=(64, 96))


def test_contradicting_options(tmp_path: Path) -> None:
    build = BuildOptions(device=Device("dla", 0), allow_gpu_fallback=False, dla_standalone=True)
    with pytest.raises(ConfigurationError, match="dla_standalone"):
        create(small_model(tmp_path), engine_cache=tmp_path, build=build)
