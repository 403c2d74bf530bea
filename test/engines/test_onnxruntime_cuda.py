# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""OnnxRuntimeCudaEngine: its code over ONNX Runtime's CPU provider, and on a GPU if there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import cuda_host
from support.gpu import requires_gpu
from support.yolox_graphs import build_yolox

from yolox_trt.core import (
    Device,
    DeviceError,
    EngineError,
    MissingDependencyError,
)
from yolox_trt.engines import cuda_driver, onnxruntime_cuda
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
    monkeypatch.setattr(cuda_driver, "compute_capability", lambda _: "9.0")


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
    monkeypatch.setattr(cuda_driver, "compute_capability", lambda _: None)
    with pytest.raises(DeviceError, match="no CUDA device 0"):
        OnnxRuntimeCudaEngine(model)
    monkeypatch.setattr(f"{MODULE}._PROVIDER", "NoSuchProvider")
    with pytest.raises(MissingDependencyError, match="onnxruntime-gpu"):
        OnnxRuntimeCudaEngine(model)


class Recorder:
    """Notes what sessions are made of and run with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, providers: list[str] | None = None) -> None:
        self.runs: list[Any] = []
        self.shapes: list[int] = []
        real = onnxruntime_cuda.make_session

        def make_session(model: object, wanted: Any, **options: Any) -> Any:
            session = real(model, wanted, **options)
            recorder = self

            class Session:
                def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
                    recorder.runs.append(options)
                    session.run_with_iobinding(binding, options)
                    recorder.shapes.append(binding.get_outputs()[0].shape()[0])

                def get_providers(self) -> list[str]:
                    return providers or session.get_providers()

                def __getattr__(self, name: str) -> Any:
                    return getattr(session, name)

            return Session()

        monkeypatch.setattr(f"{MODULE}.make_session", make_session)


def test_runs_may_be_captured_and_do_not_wait(
    on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Recorder(monkeypatch)
    model = build_yolox(num_classes=3, batch=None, style="opset13")
    engine = OnnxRuntimeCudaEngine(model, max_batch=3)
    monkeypatch.setattr(engine._runtime, "__version__", "1.31.1")
    assert not engine.capture_refusal
    monkeypatch.setattr(engine._runtime, "__version__", "1.23.2")
    assert "1.23.2 frees what a captured run reads" in engine.capture_refusal
    for batch in (2, 1, 2):
        engine.run(batch, engine.stream)
    # The first run of each session asks for the outputs' shapes, with ONNX Runtime's defaults.
    assert seen.runs[:3] == [None] * 3
    key = "disable_synchronize_execution_providers"
    assert [options.get_run_config_entry(key) for options in seen.runs[3:]] == ["1"] * 3


@pytest.mark.parametrize(
    ("batch", "max_batch", "sizes"),
    [
        (None, 1, [1]),
        (None, 2, [1, 2]),
        (None, 6, [1, 2, 4, 6]),
        (None, 8, [1, 2, 4, 8]),
        (4, 4, [4]),
    ],
)
def test_a_session_for_each_size(
    on_cpu: None,
    monkeypatch: pytest.MonkeyPatch,
    batch: int | None,
    max_batch: int,
    sizes: list[int],
) -> None:
    """A session plans its convolutions anew, for a second, whenever its batch changes."""
    seen = Recorder(monkeypatch)
    model = build_yolox(num_classes=3, batch=batch, style="opset13", width=0.125)
    engine = OnnxRuntimeCudaEngine(model, max_batch=max_batch)
    assert seen.shapes == sizes
    for number in range(1, max_batch + 1):
        engine.run(number, engine.stream)
    wanted = [min(s for s in sizes if s >= number) for number in range(1, max_batch + 1)]
    assert seen.shapes[len(sizes) :] == wanted


def test_a_session_that_fell_back_to_the_cpu_is_refused(
    on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Recorder(monkeypatch, providers=["SomeProvider"])
    with pytest.raises(MissingDependencyError, match=r"runs on SomeProvider.*onnxruntime-gpu"):
        OnnxRuntimeCudaEngine(build_yolox(num_classes=3))


def test_a_lost_device_does_not_keep_it_from_closing(
    on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = OnnxRuntimeCudaEngine(build_yolox(num_classes=3))

    def lost() -> None:
        raise RuntimeError("cudaErrorLaunchFailure")

    monkeypatch.setattr(engine.stream, "synchronize", lost)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(1)


@requires_gpu
def test_graphs_of_several_batches_do_not_disturb_each_other() -> None:
    """Each batch's graph is replayed after runs of the others; a model of batch 1 was opened."""
    import cupy
    import onnxruntime

    from yolox_trt.graph.batch import open_batch
    from yolox_trt.graph.graph import Graph

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime without the CUDA provider")
    graph = Graph(build_yolox(num_classes=3, head="decoded"))
    open_batch(graph)
    model = graph.to_model()
    engine = OnnxRuntimeCudaEngine(model, max_batch=4, tf32=False)
    host = OnnxRuntimeEngine(model, max_batch=4)
    graphs = {}
    with engine.stream:
        for batch in (4, 1, 3, 2):
            for _ in range(3):
                engine.run(batch, engine.stream)
            if not engine.capture_refusal:
                engine.stream.begin_capture()
                engine.run(batch, engine.stream)
                graphs[batch] = engine.stream.end_capture()
        rng = np.random.default_rng(0)
        for batch in (1, 4, 2, 3, 1, 3, 4, 2, 2, 1):
            images = rng.uniform(0, 255, host.input.shape).astype(np.float32)
            host.input[:] = images
            host.run(batch)
            engine.input.set(images)
            for output in engine.outputs.values():
                output.fill(0)
            if batch in graphs:
                graphs[batch].launch(engine.stream)
            else:
                engine.run(batch, engine.stream)
            engine.stream.synchronize()
            for name, value in host.outputs.items():
                found = cupy.asnumpy(engine.outputs[name])
                scale = np.abs(value[:batch]).max()
                assert np.abs(found[:batch] - value[:batch]).max() < 1e-3 * scale
                if batch != 3:  # which runs as 4
                    assert not found[batch:].any()


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
