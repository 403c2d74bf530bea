# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The commands `bench NAME`: their options, their tables, and all of them one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from support.command_line import call
from support.onnx_graphs import make_graph
from support.yolox_graphs import build_yolox

from yolox_trt.cli.command import Command
from yolox_trt.cli.commands import bench
from yolox_trt.cli.main import main
from yolox_trt.core import Letterbox, PostprocessOptions
from yolox_trt.core.errors import DeviceError, ModelError, YoloxTrtError
from yolox_trt.engines import cuda_driver
from yolox_trt.evaluation.bench import cpu, executor, workers
from yolox_trt.evaluation.bench.kernels import form_case
from yolox_trt.evaluation.bench.report import Report, Table
from yolox_trt.evaluation.options import CpuOptions
from yolox_trt.kernels.reference.decode import Decoder
from yolox_trt.kernels.reference.postprocess import Postprocessor
from yolox_trt.ros.tools import bench_hand_over


@pytest.mark.parametrize("command", bench.BENCHMARKS, ids=lambda command: command.name)
def test_help_needs_no_optional_package(
    command: type[Command], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.name.split(), "--help"])
    assert stop.value.code == 0
    assert "--json" in capsys.readouterr().out


def measured(options: CpuOptions, on_progress: object) -> Report:
    table = Table.of({"stage": "{stage}", "ms": "{ms:.1f}"}, [{"stage": "nothing", "ms": 0.25}])
    return Report({"seconds": options.seconds}, [table], ["a machine"])


def test_all_run_and_one_that_cannot_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(options: object, on_progress: object) -> Report:
        raise DeviceError("no GPU")

    two = [next(b for b in bench.BENCHMARKS if b.name == f"bench {n}") for n in ("executor", "cpu")]
    monkeypatch.setattr(bench, "BENCHMARKS", two)
    monkeypatch.setattr(executor, "measure", refuse)
    monkeypatch.setattr(cpu, "measure", measured)
    assert main(["bench", "all"]) == 0
    text = capsys.readouterr().out
    assert "not run: no GPU" in text
    assert text.index("bench executor") < text.index("bench cpu") < text.index("nothing  0.2")
    assert main(["bench", "all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"bench cpu": {"seconds": 3.0}}


def test_options_reach_the_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpu, "measure", measured)
    assert call("bench", "cpu", "--seconds", "5", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"seconds": 5.0}


def test_any_network_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = np.ones((5, 3, 3, 3), np.float32)
    path = tmp_path / "any.onnx"
    shape = ("n", 3, 24, 40)
    model = make_graph([("Conv", ["x", "w"], ["y"], {})], {"x": shape}, ["y"], {"w": weights})
    onnx.save(model, str(path))
    given = ["--model", path, "--batch", "2", "--runs", "3", "--threads", "1"]
    assert call("bench", "network", *given, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["input"], found["device"]) == ("2x3x24x40", "cpu")
    assert found["images_s"] == pytest.approx(2e3 / found["ms"])


def test_no_detector_is_made_of_any_network(tmp_path: Path) -> None:
    path = tmp_path / "any.onnx"
    model = make_graph([("Relu", ["x"], ["y"], {})], {"x": (1, 3, 32, 32)}, ["y"])
    onnx.save(model, str(path))
    images = tmp_path / "1.png"
    cv2.imwrite(str(images), np.zeros((32, 32, 3), np.uint8))
    given = [images, "--model", path, "--model-type", "none", "--device", "cpu"]
    with pytest.raises(ModelError, match=r"model type none.*bench network --model"):
        call("detect", *given, "-o", tmp_path / "out")


@pytest.mark.parametrize("jpeg", [[], ["--jpeg"]])
def test_images_are_handed_over_by_another_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], jpeg: list[str]
) -> None:
    path = tmp_path / "small.onnx"
    onnx.save(build_yolox(num_classes=3, metadata=True), path)
    given = ["--model", path, "--device", "cpu", "--size", "64x96", "--rate", "20", *jpeg]
    assert call("bench", "hand-over", *given, "--warmup", "0", "--duration", "1", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["figures"]
    assert found["frames"] > 0
    assert found["on_device"] == 0
    assert found["source_us"] > 0 and 0 < found["arrival_us"] < found["total_us"]


def test_a_source_that_ends_gives_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one takes its place; what was measured would be of two, and of the time between."""
    path = tmp_path / "small.onnx"
    onnx.save(build_yolox(num_classes=3, metadata=True), path)
    wait_for = bench_hand_over._wait_for

    def wait_and_end(done: Callable[[], bool], sink: Any, pool: Any) -> None:
        wait_for(done, sink, pool)
        pool._members[0].process.kill()

    monkeypatch.setattr(bench_hand_over, "_wait_for", wait_and_end)
    given = ["--model", path, "--device", "cpu", "--size", "64x96", "--rate", "20"]
    with pytest.raises(YoloxTrtError, match="the source ended while it was measured"):
        call("bench", "hand-over", *given, "--warmup", "0", "--duration", "3")


@pytest.mark.parametrize("name", ["executor", "cameras"])
def test_a_time_without_a_frame_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", name, "--rate", "0.5", "--seconds", "0.5"]) == 2
    assert "raise --seconds to 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("executor", ["--seconds", "inf"]),
        ("executor", ["--device", "npu"]),
        ("cameras", ["--device", "npu"]),
        ("hand-over", ["--rate", "0"]),
        ("kernels", ["--encoding", "foo"]),
        ("pipeline", ["--batch", "0"]),
        ("cpu", ["--size", "64"]),
    ],
)
def test_wrong_values_name_their_option(
    name: str, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", name, *option]) == 2
    assert f"fix: set {option[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model_type", "rows", "candidates", "shape"),
    [
        ("yolov8", 8400, 3000, (1, 84, 8400)),
        ("yolov5", 25200, 3000, (1, 25200, 85)),
        ("yolov10", 300, 300, (1, 300, 6)),
    ],
)
def test_cases_of_other_detectors_have_the_candidates_that_they_say(
    model_type: str, rows: int, candidates: int, shape: tuple[int, ...]
) -> None:
    spec, outputs = form_case(model_type, rows, candidates, "float32")
    assert outputs["output"].shape == shape
    letterbox = Letterbox.fit(1280, 1280, 640, 640)
    options = PostprocessOptions(0.3, 1.0, max_detections=1000)
    assert len(Postprocessor(spec)(outputs, 0, letterbox, options)) == min(candidates, 1000)
    thresholds = options.threshold_array(80)
    if spec.needs_nms:
        assert len(Decoder(spec).decode(outputs, 0, thresholds)) == candidates


def test_workers_are_at_work_at_the_same_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A simulated call sleeps for its time: two processes get twice the frames of one, no more."""
    given = ["--engine", "simulated", "--device", "gpu", "--latency", "0.05", "--seconds", "1"]
    given += ["--size", "64x96", "--overlap", "no", "--batch", "2"]
    assert call("bench", "workers", *given, "--json") == 0
    one, two = json.loads(capsys.readouterr().out)["figures"]
    assert (one["workers"], two["workers"]) == (1, 2)
    assert len(two["rates"]) == 2 and sum(two["rates"]) == two["per_second"]
    for rate in (*one["rates"], *two["rates"]):
        assert 10 < rate <= 41  # two frames in 50 ms or a little longer
    assert two["efficiency"] == two["per_second"] / (2 * one["per_second"])


def test_a_worker_that_cannot_start_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--device", "cpu", "--engine", "tensorrt", "--workers", "2"]
    assert main(["bench", "workers", *given]) == 2
    text = capsys.readouterr().err
    assert "engine 'tensorrt' on cpu" in text and "set --engine and --device" in text


def test_workers_without_a_gpu_of_their_own_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    for count in (0, 1):
        there = ["9.0"] * count
        monkeypatch.setattr(
            cuda_driver, "compute_capability", lambda n, t=there: t[n] if n < len(t) else None
        )
        assert workers._visible_gpus() == ["5"][:count]
        assert main(["bench", "workers", "--device", "gpu", "--workers", "2"]) == 2
        text = capsys.readouterr().err
        assert f"{count} GPUs for 2 workers" in text and "set --workers to fewer" in text


@pytest.mark.parametrize("device", ["gpu:1", "dla0"])
def test_workers_get_a_gpu_each_and_no_other_device(
    device: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda_driver, "compute_capability", lambda n: "9.0" if n < 2 else None)
    assert main(["bench", "workers", "--device", device, "--workers", "1"]) == 2
    assert f"--device {device}; expected gpu, of which each" in capsys.readouterr().err
