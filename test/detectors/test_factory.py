# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""create_detector: which engine it takes, what it says, what it refuses."""

from __future__ import annotations

import dataclasses
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.cudla import StandIn
from support.cudla.network import Int8Network
from support.tensorrt_fixtures import make_api, pretend_gpu
from support.yolox_graphs import build_yolox

from yolox_trt.core import ConfigurationError, Device, EngineError, ModelError
from yolox_trt.core.errors import MissingDependencyError
from yolox_trt.core.faults import DeviceBrokenError, OutOfMemoryError
from yolox_trt.core.frame import Frame
from yolox_trt.core.model_spec import PREPROCESSING_PRESETS
from yolox_trt.core.option import from_plain, options_of
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors import backends, factory
from yolox_trt.detectors.cpu import CpuDetector
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.engines import onnxruntime, trt_api
from yolox_trt.engines.cuda_driver import compute_capability
from yolox_trt.engines.engine_file import is_loadable

CPU, GPU, DLA0 = Device("cpu"), Device("gpu"), Device("dla", 0)


def model() -> Any:
    return build_yolox(num_classes=3)


def refuse(options: DetectorOptions, device: Device) -> Any:
    raise EngineError(f"no {device} here")


def not_installed(options: DetectorOptions, device: Device) -> Any:
    raise MissingDependencyError("no such package")


def let(monkeypatch: pytest.MonkeyPatch, kind: str, backend: Any) -> None:
    """Put a backend in the place of every engine of a kind of Device."""
    for key in [key for key in factory.BACKENDS if key[1] == kind]:
        monkeypatch.setitem(factory.BACKENDS, key, backend)


@pytest.mark.skipif(compute_capability() is not None, reason="there is a GPU")
def test_no_model_is_read_for_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    read, options = [], DetectorOptions(model=model(), input_size=(64, 96))
    real = backends.with_size
    monkeypatch.setattr(backends, "with_size", lambda *given: read.append(given) or real(*given))
    with closing(create_detector(options)) as detector:
        assert detector.device == CPU
    assert len(read) == 1


def test_cpu() -> None:
    detector = create_detector(DetectorOptions(model=model(), device=CPU, threads=1))
    assert isinstance(detector, CpuDetector)
    assert detector.device == CPU


@pytest.mark.parametrize(
    ("threads", "calls", "at_a_time"), [(1, 3, 1), (2, 3, 2), (3, 2, 2), (2, 1, 1)]
)
def test_calls_at_a_time_share_the_threads_of_one_session(
    monkeypatch: pytest.MonkeyPatch, threads: int, calls: int, at_a_time: int
) -> None:
    made: list[int] = []
    make = onnxruntime.make_session

    def count(*arguments: Any, intra_op_num_threads: int, **options: Any) -> Any:
        made.append(intra_op_num_threads)
        return make(*arguments, intra_op_num_threads=intra_op_num_threads, **options)

    monkeypatch.setattr(onnxruntime, "make_session", count)
    options = DetectorOptions(model=model(), device=CPU, threads=threads, calls=calls)
    detector = create_detector(options)
    assert detector.max_calls == detector.at_once == at_a_time
    assert made == [threads]
    detector.warmup()
    detector.close()


def test_a_batch_has_the_detector_for_itself() -> None:
    """Where memory is short it is halved, which calls that overlap are not."""
    options = DetectorOptions(model=model(), device=CPU, threads=2, calls=2, max_batch=2)
    assert create_detector(options).max_calls == 1


def test_a_model_of_batch_1_takes_batches_on_the_cpu() -> None:
    detector = create_detector(DetectorOptions(model=model(), device=CPU, threads=1, max_batch=3))
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
    monkeypatch.setitem(factory.BACKENDS, ("tensorrt", "gpu"), refuse)
    monkeypatch.setitem(factory.BACKENDS, ("onnxruntime", "gpu"), not_installed)
    with caplog.at_level(logging.INFO):
        detector = create_detector(DetectorOptions(model=model()))
    assert detector.device == CPU
    record = caplog.records[-1]
    assert record.levelno == logging.WARNING
    assert "engine onnxruntime on cpu" in record.message
    assert "not tensorrt on gpu: no gpu here" in record.message
    assert "not onnxruntime on gpu: no such package" in record.message


def test_packages_that_are_missing_are_no_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    let(monkeypatch, "gpu", not_installed)
    with caplog.at_level(logging.INFO, logger="yolox_trt.detectors.factory"):
        assert create_detector(DetectorOptions(model=model())).device == CPU
    assert caplog.records[-1].levelno == logging.INFO
    assert "not tensorrt on gpu" in caplog.records[-1].message


def test_a_named_device_does_not_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    let(monkeypatch, "gpu", refuse)
    with pytest.raises(EngineError, match=r"tensorrt on gpu:1: no gpu:1.*onnxruntime on gpu:1"):
        create_detector(DetectorOptions(model=model(), device=Device("gpu", 1)))


def test_reasons_and_remedies_of_several_engines_do_not_mix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(options: DetectorOptions, device: Device) -> Any:
        precision = options_of(DetectorOptions)["precision"]
        raise EngineError("a broken driver", expected="a working one", fix=("drop ", precision))

    let(monkeypatch, "gpu", broken)
    with pytest.raises(EngineError) as caught:
        create_detector(DetectorOptions(model=model(), device=GPU))
    assert caught.value.found == (
        "no engine for the model (tensorrt on gpu: a broken driver, and onnxruntime on gpu: a "
        "broken driver)"
    )
    # Every option is named by whoever shows the error.
    text = caught.value.text(lambda option: f"<{option.name}>")
    assert text.count("expected") == text.count("fix: ") == 1
    assert text.endswith(
        "fix: for tensorrt on gpu: drop <precision>, or for onnxruntime on gpu: drop <precision>, "
        "or set <engine> and <device> to another"
    )


def test_the_first_engine_gets_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setitem(
        factory.BACKENDS, ("tensorrt", "gpu"), lambda *given: seen.append(given) or given
    )
    options = DetectorOptions(model="model.engine", device=GPU, precision="int8")
    create_detector(options)
    assert seen == [(options, GPU)]
    assert options.is_engine_file


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"device": "tpu"}, "device 'tpu'"),
        ({"engine": "openvino"}, "`engine` = 'openvino'"),
        ({"preprocessing": "hsv"}, "preprocessing 'hsv'"),
        ({"precision": "bf16"}, "`precision` = 'bf16'"),
        ({"input_size": "608"}, "size '608'"),
        ({"max_batch": 0}, "`max_batch` = 0"),
        ({"device": "dla0", "engine": "onnxruntime"}, "onnxruntime' on dla0"),
        ({"device": "cpu", "engine": "tensorrt"}, "tensorrt' on cpu"),
        ({"device": "cpu", "model": "a.engine"}, "on cpu for a.engine"),
    ],
)
def test_wrong_parameters(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        create_detector(from_plain(DetectorOptions, {"model": "model.onnx", **values}))


def test_plain_values(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("car\nbus\n")
    options = from_plain(
        DetectorOptions,
        {
            "model": "~/model.onnx",
            "device": "auto",
            "preprocessing": "rgb_unit",
            "labels": str(labels),
            "input_size": "608x960",
        },
    )
    assert options.model == Path("~/model.onnx").expanduser()
    assert options.device is None
    assert options.preprocessing == PREPROCESSING_PRESETS["rgb_unit"]
    assert options.labels == ("car", "bus")
    assert options.input_size == (608, 960)


def test_a_wrong_model_is_an_error_of_its_own() -> None:
    with pytest.raises(ModelError, match="no file"):
        create_detector(DetectorOptions(model="/nowhere/model.onnx", device=CPU))


def test_precision_that_the_cpu_has_not() -> None:
    with pytest.raises(EngineError, match="int8"):
        create_detector(DetectorOptions(model=model(), device=CPU, precision="int8"))


class _CudaError(RuntimeError):
    """As CuPy's: its text need not tell what its code does."""

    def __init__(self, status: int) -> None:
        super().__init__(f"cuda error {status}")
        self.status = status


def raising(error: Exception) -> Any:
    def backend(options: DetectorOptions, device: Device) -> Any:
        raise error

    return backend


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (_CudaError(700), DeviceBrokenError),
        (DeviceBrokenError("broken"), DeviceBrokenError),
        (_CudaError(2), OutOfMemoryError),
        (OutOfMemoryError("full"), OutOfMemoryError),
    ],
)
def test_a_fault_of_one_engine_is_that_of_all(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[EngineError]
) -> None:
    """An executor gives up a device whose context is broken, and no other one."""
    let(monkeypatch, "gpu", not_installed)
    monkeypatch.setitem(factory.BACKENDS, ("onnxruntime", "gpu"), raising(error))
    with pytest.raises(kind, match=r"tensorrt on gpu.*onnxruntime on gpu"):
        create_detector(DetectorOptions(model=model(), device=GPU))


def test_another_error_than_a_fault_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    let(monkeypatch, "gpu", raising(TypeError("a mistake")))
    with pytest.raises(TypeError, match="a mistake"):
        create_detector(DetectorOptions(model=model()))


def test_a_loadable_is_run_by_cudla(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = Int8Network()
    dla = StandIn(monkeypatch, network.compute, (1, 9))
    file = network.write(tmp_path)
    options = DetectorOptions(model=file.path, device=DLA0, cudla_mode="standalone")
    with caplog.at_level(logging.INFO), closing(create_detector(options)) as detector:
        assert isinstance(detector, CpuDetector) and detector.device == DLA0
    assert caplog.records[-1].message.endswith("engine cudla on dla0")  # and no other was tried
    with pytest.raises(EngineError, match="in int8") as caught:
        create_detector(dataclasses.replace(options, precision="fp16"))
    assert "--precision fp16" in caught.value.fix
    with pytest.raises(ConfigurationError, match="engine 'cudla' on gpu"):
        create_detector(DetectorOptions(model=file.path, device=GPU, engine="cudla"))
    dla.check_clean()


def test_cudla_has_its_loadable_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By TensorRT, whole on the DLA; the stand-in's engine is no loadable, as cuDLA says."""
    dla = StandIn(monkeypatch, lambda inputs, outputs: None)
    fake, api = make_api("8.6")
    monkeypatch.setattr(trt_api, "_loaded", {"tensorrt": api})
    pretend_gpu(monkeypatch)
    whole = {"activation": "relu6", "stem": "conv", "spp": "chained", "head": "raw_levels"}
    options = DetectorOptions(
        model=build_yolox(width=0.125, **whole), device=DLA0, engine="cudla",
        cudla_mode="standalone", engine_cache=tmp_path,
    )  # fmt: skip
    with pytest.raises(EngineError, match=r"cudlaErrorUmd.*cuDLA does not load"):
        create_detector(options)
    settings = dict(fake.calls)
    assert settings["IBuilderConfig.engine_capability"] is not None
    (built,) = tmp_path.glob("*.engine")
    assert is_loadable(built)
    with pytest.raises(EngineError, match="nodes fall back"):
        create_detector(dataclasses.replace(options, model=model()))
    dla.check_clean()
