# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The runtime against the API of each TensorRT version, with stand-ins for TensorRT and CuPy."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from support.fake_cupy import Stream
from support.fake_tensorrt import VERSIONS, FakeTensorRT, load_table
from support.tensorrt_fixtures import build_engine, make_api, pretend_cupy, pretend_gpu, small_model

from yolox_trt.compiler.tensorrt import build as build_module
from yolox_trt.compiler.tensorrt import plan as build_plan
from yolox_trt.compiler.tensorrt.load_engine import load_engine, load_tensorrt_engine
from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.compiler.tensorrt.plan import BuildPlan
from yolox_trt.core.device import Device
from yolox_trt.core.errors import (
    ConfigurationError,
    DeviceError,
    EngineError,
    MissingDependencyError,
    ModelError,
)
from yolox_trt.core.faults import DeviceBrokenError
from yolox_trt.core.model_spec import PREPROCESSING_PRESETS
from yolox_trt.engines import trt_api
from yolox_trt.engines.cache import EngineCache
from yolox_trt.engines.cache_pruning import clear
from yolox_trt.engines.engine import Engine
from yolox_trt.engines.engine_file import BuiltEngine, EngineFile, read_engine, write_engine
from yolox_trt.engines.tensorrt import TensorRTEngine
from yolox_trt.engines.trt_api import TensorRTApi
from yolox_trt.graph import batch as open_batch

DLA = Device("dla", 0)
GPU = Device("gpu")
WITH_DLA = ["8.5", "8.6", "10.3"]


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    return pretend_cupy(monkeypatch)


def engine_file(folder: Path, api: TensorRTApi, model: Path, **options: Any) -> EngineFile:
    chosen = BuildOptions(**options)
    plan = BuildPlan(model, chosen, api=api)
    built = build_engine(model, chosen, api=api)
    return write_engine(folder / "m.engine", built, plan.fingerprint)


def load(
    folder: Path, name: str, *, model_options: dict[str, Any] | None = None, **options: Any
) -> tuple[FakeTensorRT, TensorRTEngine]:
    fake, api = make_api(name)
    model = small_model(folder, **(model_options or {}))
    engine = TensorRTEngine(engine_file(folder, api, model, **options), api=api)
    return fake, engine


@pytest.mark.parametrize("name", VERSIONS)
def test_runs_on_the_given_stream_with_fixed_addresses(
    tmp_path: Path, name: str, cupy: Any
) -> None:
    fake, engine = load(tmp_path, name)
    assert isinstance(engine, Engine)
    assert engine.device == GPU
    assert engine.memory == "cuda"
    assert engine.max_batch == 1
    assert engine.input.shape == (1, 3, 64, 96)
    assert engine.input.dtype == "float32"
    assert list(engine.outputs) == ["output"]
    assert engine.outputs["output"].shape == (1, 126, 9)
    assert engine.capture_refusal == ""
    stream = Stream()
    before = cupy.allocations
    for _ in range(3):
        engine.run(1, stream)
    engine.run(1)
    assert cupy.allocations == before
    addresses, _, pointer = fake.runs[0]
    assert pointer == stream.ptr
    assert addresses["images"] == engine.input.data.ptr
    assert addresses["output"] == engine.outputs["output"].data.ptr
    assert [run[0] for run in fake.runs] == [addresses] * 4
    stream.waits, stream.fails = 0, RuntimeError("the device is lost")
    engine.close()
    engine.close()
    assert stream.waits == 1
    with pytest.raises(EngineError, match="closed"):
        engine.run(1)


@pytest.mark.parametrize("name", VERSIONS)
def test_batches(tmp_path: Path, name: str, cupy: Any) -> None:
    dynamic = {"batch": None, "style": "opset13", "head": "raw_levels"}
    fake, engine = load(tmp_path, name, model_options=dynamic, max_batch=4)
    assert engine.max_batch == 4
    assert engine.input.shape == (4, 3, 64, 96)
    assert engine.outputs["cls_8"].shape == (4, 4, 8, 12)
    fake.calls.clear()
    for batch in (2, 2, 4, 1):
        engine.run(batch)
    assert [run[1]["images"][0] for run in fake.runs] == [2, 2, 4, 1]
    for batch in (0, 5):
        with pytest.raises(EngineError, match=r"expected 1 to 4"):
            engine.run(batch)
    if name == "8.5":
        return  # one context: see below
    assert engine.capture_refusal == ""
    # A graph captured from a context would break if another batch changed that context's shape.
    (two, memory), (again, _), (four, _), (one, _) = fake.contexts
    assert two is again
    assert len({id(two), id(four), id(one)}) == 3
    assert {m for _, m in fake.contexts} == {memory}
    engine.run(4)
    engine.run(2)
    assert [context for context, _ in fake.contexts[-2:]] == [four, two]
    shapes = [args for called, args in fake.calls if called == "IExecutionContext.set_input_shape"]
    assert [shape[1][0] for shape in shapes] == [2]  # 4 and 1 when it was loaded; once for each
    assert [run[0] for run in fake.runs] == [fake.runs[0][0]] * 6


@pytest.mark.parametrize("name", ["8.5", "8.6"])
def test_batches_of_a_profile_that_serves_one_context(
    tmp_path: Path, name: str, cupy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """TensorRT 8.5, and engines of 8.6 that were not built to share their profile."""
    fake, api = make_api(name)
    model = small_model(tmp_path, batch=None, style="opset13", head="raw_levels")
    file = engine_file(tmp_path, api, model, max_batch=4)
    if name == "8.6":
        assert json.loads(file.data)["shared"]
        unshared = json.dumps({**json.loads(file.data), "shared": False}).encode()
        file = write_engine(file.path, BuiltEngine(unshared, file.spec), file.fingerprint)
    engine = TensorRTEngine(file, api=api)
    assert engine.capture_refusal
    assert "share one execution context, and no CUDA graph is used" in caplog.text
    for batch in (2, 2, 4, 1, 2):
        engine.run(batch)
    assert [run[1]["images"][0] for run in fake.runs] == [2, 2, 4, 1, 2]
    assert len({id(context) for context, _ in fake.contexts}) == 1
    engine.profile_layers(2, runs=1)
    engine.close()
    # A profile of one size needs no second context.
    fixed = engine_file(tmp_path, api, model, min_batch=4, max_batch=4)
    assert TensorRTEngine(fixed, api=api).capture_refusal == ""


@pytest.mark.parametrize("name", VERSIONS)
def test_a_refused_run_is_an_error_with_tensorrts_message(
    tmp_path: Path, name: str, cupy: Any
) -> None:
    fake, engine = load(tmp_path, name)
    fake.run_fails = "CUDA failure 719"
    with pytest.raises(EngineError, match=r"m\.engine on gpu: run with batch 1.*failure 719"):
        engine.run(1)


def test_a_failure_on_the_device_is_a_fault(
    tmp_path: Path, cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, engine = load(tmp_path, "8.6")
    stream = Stream()
    stream.fails = RuntimeError("CUDA failure 719: unspecified launch failure")
    monkeypatch.setattr(cupy.cuda, "Stream", lambda non_blocking: stream)
    with pytest.raises(DeviceBrokenError, match=r"m\.engine failed on gpu: CUDA failure 719"):
        engine.profile_layers(1)


@pytest.mark.parametrize("name", VERSIONS)
def test_layer_times(tmp_path: Path, name: str, cupy: Any) -> None:
    fake, engine = load(tmp_path, name)
    times = engine.profile_layers(1, runs=4)
    assert list(times.items()) == [("conv", 1.5), ("head", 0.5)]
    profiled = fake.contexts[-1][0]
    fake.runs.clear()
    engine.run(1)  # with the addresses of the new context
    assert len(fake.runs) == 1
    assert fake.contexts[-1][0] is not profiled
    assert engine.device_memory_bytes == 4096


def test_work_on_the_second_gpu(tmp_path: Path, cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams and buffers are of the device that is current when they are made."""
    fake, api = make_api("10.3")
    device = Device("gpu", 1)
    built_on: list[int] = []
    serialize = fake.module.Builder.build_serialized_network

    def note(builder: Any, network: Any, config: Any) -> Any:
        built_on.append(cupy.devices[-1])
        return serialize(builder, network, config)

    type.__setattr__(fake.module.Builder, "build_serialized_network", note)
    monkeypatch.setattr(build_module, "require", lambda name, purpose="": cupy)
    model = small_model(tmp_path, batch=None, style="opset13", head="raw_levels")
    file = engine_file(tmp_path, api, model, device=device, max_batch=2)
    assert built_on == [1]
    assert cupy.devices == [0]
    engine = TensorRTEngine(file, device=device, api=api)
    engine.run(1)
    engine.profile_layers(1, runs=1)
    assert cupy.streams == [1]
    assert set(cupy.allocated_on) == {1}
    assert cupy.devices == [0]


def test_rtx_keeps_the_kernels_that_it_compiled(tmp_path: Path, cupy: Any) -> None:
    fake, engine = load(tmp_path, "rtx-1.7")
    assert "IRuntimeCache.deserialize" not in fake.names_called()
    engine.run(1)
    engine.keep_compiled()
    assert (tmp_path / "m.engine.runtime_cache").read_bytes() == b"kernels"
    TensorRTEngine(read_engine(engine.file.path), api=make_other(fake))
    assert ("IRuntimeCache.deserialize", (b"kernels",)) in fake.calls


def make_other(fake: FakeTensorRT) -> TensorRTApi:
    return TensorRTApi(fake.module)


@pytest.mark.parametrize("name", WITH_DLA)
def test_dla(tmp_path: Path, name: str, cupy: Any) -> None:
    fake, engine = load(tmp_path, name, device=Device("dla", 1))
    assert engine.device == Device("dla", 1)
    assert engine.capture_refusal
    assert ("Runtime.DLA_core", 1) in fake.calls
    engine.run(1)
    fake.num_dla_cores = 1
    with pytest.raises(DeviceError, match="1 DLA cores"):
        TensorRTEngine(read_engine(engine.file.path), api=make_other(fake))


def test_native_formats_of_the_dla(tmp_path: Path, cupy: Any) -> None:
    _, engine = load(
        tmp_path,
        "8.6",
        model_options={"head": "raw_levels"},
        device=DLA,
        input_type="fp16",
        input_format="dla_linear",
        output_type="fp16",
        output_format="chw16",
    )
    assert engine.input_format == "dla_linear"
    assert engine.input.shape == (1, 3, 64, 96)  # 192 bytes a row are 3 x 64: no padding
    # chw16: all of its 4 channels in one vector of 16
    assert engine.outputs["cls_8"].shape == (1, 1, 8, 12, 16)
    assert engine.spec.input_dtype == "float16"
    assert engine.input_scale is None


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("form", ["logits", "argmax"])
def test_a_segmentation_head(tmp_path: Path, name: str, form: str, cupy: Any) -> None:
    options = {"segmentation": form, "mask_classes": 5}
    _, engine = load(tmp_path, name, model_options=options)
    head = engine.spec.segmentation
    assert head is not None and (head.num_classes, head.has_argmax) == (5, form == "argmax")
    assert list(engine.outputs) == ["output", "pixels"]
    classes = engine.outputs["pixels"]
    assert classes.shape == ((1, 16, 24) if form == "argmax" else (1, 5, 16, 24))
    assert str(classes.dtype) in (("int32", "int64") if form == "argmax" else ("float32",))


def test_a_segmentation_head_in_native_formats_of_the_dla(tmp_path: Path, cupy: Any) -> None:
    """The classes behind an ArgMax, which the GPU computes, have no format of the DLA."""
    formats = {"output_type": "fp16", "output_format": "chw16"}
    for form, shape in (("logits", (1, 1, 16, 24, 16)), ("argmax", (1, 16, 24))):
        options = {"head": "raw_levels", "segmentation": form, "mask_classes": 5}
        _, engine = load(tmp_path, "8.6", model_options=options, device=DLA, **formats)
        assert engine.outputs["pixels"].shape == shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensorrt_version": "8.6.1.5"}, r"of TensorRT 8\.6\.1\.5; expected 8\.6\.1\.6"),
        ({"flavour": "tensorrt_rtx"}, "of tensorrt_rtx"),
        ({"compute_capability": "7.2"}, r"for compute capability 7\.2; expected 8\.7"),
        ({"device": "dla0"}, "for dla0; expected one for gpu"),
        ({"options": {"dla_standalone": True}}, "standalone loadable"),
    ],
)
def test_engines_of_elsewhere_are_refused(
    tmp_path: Path, cupy: Any, change: dict[str, Any], message: str
) -> None:
    _, api = make_api("8.6")
    file = engine_file(tmp_path, api, small_model(tmp_path))
    other = dataclasses.replace(file, fingerprint=dataclasses.replace(file.fingerprint, **change))
    with pytest.raises(EngineError, match=message):
        TensorRTEngine(other, device=GPU, api=api)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"compute_capability": "8.0+"}, "8.6"),
        ({"compute_capability": "portable"}, "rtx-1.7"),
        ({"compute_capability": "8.6,8.7"}, "rtx-1.7"),
    ],
)
def test_engines_for_more_than_one_gpu(
    tmp_path: Path, cupy: Any, change: dict[str, Any], name: str
) -> None:
    fake, api = make_api(name)
    file = engine_file(tmp_path, api, small_model(tmp_path))
    fingerprint = dataclasses.replace(file.fingerprint, **change)
    TensorRTEngine(dataclasses.replace(file, fingerprint=fingerprint), api=api).run(1)
    assert len(fake.runs) == 1


def test_version_compatible_engines(tmp_path: Path, cupy: Any) -> None:
    fake, api = make_api("8.6")
    file = engine_file(tmp_path, api, small_model(tmp_path), version_compatible=True)
    fingerprint = dataclasses.replace(file.fingerprint, tensorrt_version="8.6.0.1")
    TensorRTEngine(dataclasses.replace(file, fingerprint=fingerprint), api=api)
    assert ("Runtime.engine_host_code_allowed", True) in fake.calls


def test_no_gpu(tmp_path: Path, cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, api = make_api("8.6")
    file = engine_file(tmp_path, api, small_model(tmp_path))
    pretend_gpu(monkeypatch, None)
    with pytest.raises(DeviceError, match="no CUDA device 0"):
        TensorRTEngine(file, api=api)


def test_no_cupy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cupy", None)
    _, api = make_api("8.6")
    file = engine_file(tmp_path, api, small_model(tmp_path))
    with pytest.raises(MissingDependencyError, match="cupy-cuda12x"):
        TensorRTEngine(file, api=api)


def test_an_engine_that_tensorrt_does_not_read(tmp_path: Path, cupy: Any) -> None:
    _, api = make_api("8.6")
    file = engine_file(tmp_path, api, small_model(tmp_path))
    broken = write_engine(file.path, BuiltEngine(b"no engine", file.spec), file.fingerprint)
    with pytest.raises(EngineError, match="Magic tag does not match"):
        TensorRTEngine(broken, api=api)


# ---- load_tensorrt_engine


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    fake, api = make_api("8.6")
    monkeypatch.setattr(trt_api, "_loaded", {"tensorrt": api})
    return fake


def builds(fake: FakeTensorRT) -> int:
    return [name for name, _ in fake.calls].count("Builder.build_serialized_network")


def test_load_builds_once(tmp_path: Path, cupy: Any, fake: FakeTensorRT) -> None:
    model = small_model(tmp_path)
    phases: list[str] = []
    for _ in range(2):
        engine = load_tensorrt_engine(
            model,
            GPU,
            BuildOptions(precision="fp16"),
            tmp_path / "cache",
            lambda fraction, phase: phases.append(phase),
        )
        engine.run(1)
    assert builds(fake) == 1
    assert phases[-1] == "built"
    load_tensorrt_engine(model, GPU, BuildOptions(precision="fp32"), tmp_path / "cache")
    assert builds(fake) == 2


def test_load_builds_again_what_tensorrt_refuses(
    tmp_path: Path, cupy: Any, fake: FakeTensorRT, caplog: pytest.LogCaptureFixture
) -> None:
    model, cache = small_model(tmp_path), EngineCache(tmp_path / "cache")
    first = load_tensorrt_engine(model, GPU, None, cache).file
    write_engine(first.path, BuiltEngine(b"no engine", first.spec), first.fingerprint)
    load_tensorrt_engine(model, GPU, None, cache).run(1)
    assert builds(fake) == 2
    assert "built again" in caplog.text
    assert "Magic tag" in caplog.text


def test_load_keeps_an_engine_that_a_device_fails_to_run(
    tmp_path: Path, cupy: Any, fake: FakeTensorRT
) -> None:
    """A core whose task hangs, a library that is missing: neither says anything of the file."""
    model, cache = small_model(tmp_path), EngineCache(tmp_path / "cache")
    first = load_tensorrt_engine(model, GPU, None, cache).file

    def make(file: Any, **_: Any) -> Any:
        raise EngineError("dla0 works on a task that was given up")

    for _ in range(3):
        with pytest.raises(EngineError, match="given up"):
            load_engine(model, GPU, BuildOptions(), make, cache)
    assert builds(fake) == 1
    assert first.path.is_file()


def test_a_loaded_engine_stays_in_the_cache(tmp_path: Path, cupy: Any, fake: FakeTensorRT) -> None:
    cache = EngineCache(tmp_path / "cache")
    model = small_model(tmp_path)
    for _ in range(2):  # built, and found
        engine = load_tensorrt_engine(model, GPU, None, cache)
        assert not clear(cache.folder)
        engine.close()
    assert len(clear(cache.folder)) == 1


def test_load_takes_models_engine_files_and_overrides(
    tmp_path: Path, cupy: Any, fake: FakeTensorRT
) -> None:
    path = small_model(tmp_path)
    loaded = onnx.load(str(path))
    names = ["a", "b", "c", "d"]
    engine = load_tensorrt_engine(
        loaded, GPU, None, tmp_path / "cache", preprocessing=PREPROCESSING_PRESETS["rgb"]
    )
    assert engine.spec.preprocessing.color_order == "rgb"
    again = load_tensorrt_engine(
        engine.file.path, GPU, None, tmp_path / "elsewhere", class_names=names
    )
    assert again.spec.class_names == tuple(names)
    assert builds(fake) == 1
    with pytest.raises(ConfigurationError, match="4, as"):
        load_tensorrt_engine(engine.file.path, GPU, class_names=["a"])


def test_a_fixed_batch_is_opened_for_max_batch(
    tmp_path: Path,
    cupy: Any,
    fake: FakeTensorRT,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fixed = small_model(tmp_path)
    cache = EngineCache(tmp_path / "cache")
    engine = load_tensorrt_engine(fixed, GPU, BuildOptions(max_batch=8), cache)
    assert engine.max_batch == 8
    assert engine.spec.batch is None
    assert engine.outputs["output"].shape == (8, 126, 9)
    for batch in (1, 8, 3):
        engine.run(batch)
    assert [run[1]["images"][0] for run in fake.runs] == [1, 8, 3]
    assert engine.file.fingerprint.batch == (1, 8, 8)
    assert engine.file.fingerprint.options["rewriting"] == {"open_batch": open_batch.REVISION}
    # Another engine than that of the file as it is; each is built once.
    assert load_tensorrt_engine(fixed, GPU, None, cache).max_batch == 1
    assert load_tensorrt_engine(fixed, GPU, BuildOptions(max_batch=8), cache).max_batch == 8
    assert builds(fake) == 2
    # One that was opened in another way is not used.
    monkeypatch.setattr(open_batch, "REVISION", open_batch.REVISION + 1)
    load_tensorrt_engine(fixed, GPU, BuildOptions(max_batch=8), cache)
    assert builds(fake) == 3
    assert not caplog.records


def test_a_batch_that_cannot_be_opened_goes_before_max_batch(
    tmp_path: Path,
    cupy: Any,
    fake: FakeTensorRT,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(model: object) -> None:
        raise ModelError("node 'n' mixes images")

    monkeypatch.setattr(build_plan, "open_batch", refuse)
    fixed = small_model(tmp_path)
    engine = load_tensorrt_engine(fixed, GPU, BuildOptions(max_batch=8), tmp_path / "cache")
    assert engine.max_batch == 1
    assert "yolox.onnx runs with batch 1, not 8: node 'n' mixes images" in caplog.text
    with pytest.raises(ModelError, match="mixes images"):
        BuildPlan(fixed, BuildOptions(max_batch=8))


def fitted(model: Path) -> tuple[int, int, int]:
    return BuildPlan(model, BuildOptions(device=DLA, max_batch=8), fit_batch=True).batch


def test_batches_that_a_dla_does_not_take(tmp_path: Path, fake: FakeTensorRT) -> None:
    fixed = small_model(tmp_path)
    assert fitted(fixed) == (1, 1, 1)
    of_4 = small_model(tmp_path, name="4.onnx", batch=4)
    assert fitted(of_4) == (4, 4, 4)
    with pytest.raises(ModelError, match="batch 1 for device dla0"):
        BuildPlan(fixed, BuildOptions(device=DLA, max_batch=8))


def test_an_open_batch(tmp_path: Path, cupy: Any, fake: FakeTensorRT) -> None:
    dynamic = small_model(tmp_path, name="d.onnx", batch=None, style="opset13")
    assert load_tensorrt_engine(dynamic, GPU, BuildOptions(max_batch=8), tmp_path).max_batch == 8
    assert fitted(dynamic) == (1, 1, 1)


def without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no model be opened any more."""
    names = [name for name in sys.modules if name.partition(".")[0] == "onnx"]
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize(
    "options",
    [
        BuildOptions(),
        BuildOptions(max_batch=4),
        BuildOptions(precision="fp32", layer_precisions={"*": "fp16"}),
    ],
)
def test_an_engine_that_is_there_starts_without_opening_its_model(
    tmp_path: Path,
    cupy: Any,
    fake: FakeTensorRT,
    monkeypatch: pytest.MonkeyPatch,
    options: BuildOptions,
) -> None:
    model, cache = small_model(tmp_path), EngineCache(tmp_path / "cache")
    opened: list[str] = []
    load = onnx.load

    def counting(path: str, *args: Any, **rest: Any) -> Any:
        opened.append(path)
        return load(path, *args, **rest)

    monkeypatch.setattr(onnx, "load", counting)
    first = load_tensorrt_engine(model, GPU, options, cache)
    # Once for the names of its external files, once as a graph, and once by TensorRT's stand-in.
    assert 2 <= len(opened) <= 3
    opened.clear()
    without_onnx(monkeypatch)
    again = load_tensorrt_engine(model, GPU, options, cache)
    assert builds(fake) == 1
    assert opened == []
    assert (again.file.path, again.spec) == (first.file.path, first.spec)
    again.run(1)


def test_a_changed_request_opens_the_model_again(
    tmp_path: Path, cupy: Any, fake: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file, option, way of rewriting, GPU or TensorRT; and an engine that was removed."""
    model, cache = small_model(tmp_path), EngineCache(tmp_path / "cache")
    engine = load_tensorrt_engine(model, GPU, BuildOptions(), cache)
    load_tensorrt_engine(model, GPU, BuildOptions(optimization_level=4), cache)
    assert builds(fake) == 2
    small_model(tmp_path, num_classes=5)  # under the same name
    assert load_tensorrt_engine(model, GPU, BuildOptions(), cache).spec.num_classes == 5
    assert builds(fake) == 3
    pretend_gpu(monkeypatch, "8.9")
    load_tensorrt_engine(model, GPU, BuildOptions(), cache)
    assert builds(fake) == 4
    pretend_gpu(monkeypatch)
    small_model(tmp_path)
    monkeypatch.setitem(fake_apis(), "tensorrt", make_api("8.5")[1])
    assert load_tensorrt_engine(model, GPU, BuildOptions(), cache).file.path != engine.file.path
    monkeypatch.undo()


def fake_apis() -> dict[str, TensorRTApi]:
    return trt_api._loaded


def test_weights_in_other_files_count_for_an_engine_that_is_there(
    tmp_path: Path, cupy: Any, fake: FakeTensorRT
) -> None:
    model, cache = tmp_path / "m.onnx", EngineCache(tmp_path / "cache")
    proto = onnx.load(str(small_model(tmp_path)))
    onnx.save(proto, str(model), save_as_external_data=True, location="m.bin", size_threshold=0)
    for _ in range(2):
        load_tensorrt_engine(model, GPU, None, cache)
    assert builds(fake) == 1
    data = bytearray((tmp_path / "m.bin").read_bytes())
    data[100] ^= 1
    (tmp_path / "m.bin").write_bytes(data)
    load_tensorrt_engine(model, GPU, None, cache)
    assert builds(fake) == 2


def test_removed_engines_leave_no_note_of_their_request(
    tmp_path: Path, cupy: Any, fake: FakeTensorRT
) -> None:
    model, cache = small_model(tmp_path), EngineCache(tmp_path / "cache")
    load_tensorrt_engine(model, GPU, None, cache).close()
    assert len(list(cache.folder.glob("requests/*.json"))) == 1
    assert len(clear(cache.folder)) == 1
    assert not list(cache.folder.glob("requests/*"))
    load_tensorrt_engine(model, GPU, None, cache)
    assert builds(fake) == 2


RUNTIME_CLASSES = ("Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig", "IProfiler")


def test_the_real_runtime_of_11_4_has_every_name_that_the_engine_uses(
    tmp_path: Path, cupy: Any
) -> None:
    """Against tensorrt-lean, NVIDIA's runtime without builder: pip install tensorrt-lean-cu13."""
    lean = pytest.importorskip("tensorrt_lean_bindings", reason="tensorrt-lean-cu13 not installed")
    assert lean.__version__.startswith("11.")
    dynamic = {"batch": None, "style": "opset13", "head": "raw_levels"}
    fake, engine = load(tmp_path, "11.4", model_options=dynamic, max_batch=2)
    engine.run(1)
    engine.run(2)
    engine.profile_layers(runs=1)
    engine.close()
    used = [name.split(".") for name in fake.names_called() if "." in name]
    used = [[owner, name] for owner, name in used if owner in RUNTIME_CLASSES]
    assert {owner for owner, _ in used} >= {"Runtime", "ICudaEngine", "IExecutionContext"}
    assert [name for name in used if not hasattr(getattr(lean, name[0]), name[1])] == []
    # And the stand-in promises nothing that the real classes have not.
    table = load_table("11.4")["classes"]
    shared = [owner for owner in table if hasattr(lean, owner)]
    assert set(RUNTIME_CLASSES) <= set(shared)
    promised = [(owner, name) for owner in shared for name in table[owner]]
    assert [p for p in promised if not hasattr(getattr(lean, p[0]), p[1])] == []
