# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""OnnxRuntimeCudaEngine: its code over ONNX Runtime's CPU provider, and on a GPU if there is."""

from __future__ import annotations

import numpy as np
import pytest
from support import cuda_host
from support.gpu import requires_gpu
from support.yolox_graphs import build_yolox

from yolox_trt.core import Device, DeviceError, EngineError, MissingDependencyError
from yolox_trt.engines import onnxruntime_cuda
from yolox_trt.engines.onnxruntime import OnnxRuntimeEngine
from yolox_trt.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine

MODULE = "yolox_trt.engines.onnxruntime_cuda"


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine bind host memory and run on the CPU provider."""
    pytest.importorskip("onnxruntime")
    cupy = cuda_host.make_cupy(lambda shape, dtype: np.empty(shape, dtype))
    real = onnxruntime_cuda.require

    def require(name: str, **options: str) -> object:
        return cupy if name == "cupy" else real(name, **options)

    monkeypatch.setattr(f"{MODULE}.require", require)
    monkeypatch.setattr(f"{MODULE}._PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(f"{MODULE}._MEMORY", "cpu")
    monkeypatch.setattr(f"{MODULE}.compute_capability", lambda _: "9.0")


def test_outputs_equal_the_host_engines(on_cpu: None) -> None:
    model = build_yolox(num_classes=3, batch=None, style="opset13")
    engine = OnnxRuntimeCudaEngine(model, max_batch=3)
    host = OnnxRuntimeEngine(model, max_batch=3)
    assert (engine.memory, engine.max_batch, engine.device) == ("cuda", 3, Device("gpu"))
    images = np.random.default_rng(0).uniform(0, 255, host.input.shape).astype(np.float32)
    for batch in (3, 1, 2, 1):
        engine.input[:batch] = host.input[:batch] = images[:batch]
        engine.run(batch, engine.stream)
        host.run(batch)
        for name, value in host.outputs.items():
            assert engine.outputs[name].shape == value.shape
            np.testing.assert_allclose(engine.outputs[name][:batch], value[:batch], rtol=1e-4)


def test_errors_name_what_is_wrong(on_cpu: None) -> None:
    engine = OnnxRuntimeCudaEngine(build_yolox(num_classes=3))
    with pytest.raises(EngineError, match="batch 2"):
        engine.run(2)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(1)
    with pytest.raises(EngineError, match="dla0"):
        OnnxRuntimeCudaEngine(build_yolox(num_classes=3), device=Device("dla"))


def test_missing_gpu_and_provider(on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_yolox(num_classes=3)
    monkeypatch.setattr(f"{MODULE}.compute_capability", lambda _: None)
    with pytest.raises(DeviceError, match="no CUDA device 0"):
        OnnxRuntimeCudaEngine(model)
    monkeypatch.setattr(f"{MODULE}._PROVIDER", "NoSuchProvider")
    with pytest.raises(MissingDependencyError, match="onnxruntime-gpu"):
        OnnxRuntimeCudaEngine(model)


@requires_gpu
def test_gpu_equals_cpu() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime without the CUDA provider")
    model = build_yolox(num_classes=3, batch=None, style="opset13")
    engine = OnnxRuntimeCudaEngine(model, max_batch=2, tf32=False)
    host = OnnxRuntimeEngine(model, max_batch=2)
    images = np.random.default_rng(0).uniform(0, 255, host.input.shape).astype(np.float32)
    host.input[:] = images
    host.run(2)
    engine.input.set(images)
    engine.run(2)
    for name, value in host.outputs.items():
        np.testing.assert_allclose(engine.outputs[name].get(), value, rtol=1e-2, atol=1e-3)
