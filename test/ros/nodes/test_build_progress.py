# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Engines that are built at configure: told on ~/build_progress, /diagnostics and in the log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from support.ros import LATCHED, Client, RosProcess, write_parameters

from yolox_trt.core.device import Device
from yolox_trt.detectors import backends, factory
from yolox_trt.detectors.detector import Detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.ros.nodes.build_progress import BuildProgress
from yolox_trt.ros.nodes.detection_service import DetectionService
from yolox_trt.ros.nodes.parameters import EXECUTOR_OPTIONS, ExecutorParameters

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180, method="signal")]

Start = Callable[..., RosProcess]

#: multi_camera whose backend builds for some time before it makes the detector; it calls
#: on_progress as compiler.build does. {steps} of 0.1 s each; it does not get beyond the half
#: before the file {gate} is there.
SLOW_BUILD = """
import pathlib, sys, time
from yolox_trt.detectors import backends, factory
from yolox_trt.ros.nodes.multi_camera import main

def create(options, device):
    for step in range({steps}):
        options.on_progress(step / {steps}, "fusing layers")
        time.sleep(0.1)
        while step == {steps} // 2 and not pathlib.Path({gate!r}).exists():
            options.on_progress(step / {steps}, "fusing layers")
            time.sleep(0.1)
    options.on_progress(1.0, "built")
    return backends.onnxruntime_cpu(options, device)

factory.BACKENDS["onnxruntime", "cpu"] = create
sys.exit(main())
"""


#: What was told before the listener was found counts as well.
HISTORY = QoSProfile(
    depth=10,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


def start_slow(
    start: Start, folder: Path, model: Path, steps: int, gate: Path | None = None
) -> RosProcess:
    own = {"model": str(model), "devices": ["cpu"], "cpu_threads": 1, "cameras": ["front"]}
    own["diagnostics_period"] = 0.1
    path = write_parameters(folder / "parameters.yaml", {"multi_camera": own})
    code = SLOW_BUILD.format(steps=steps, gate=str(gate or path))
    return start(["-c", code, "--ros-args", "--params-file", str(path)])


def parameters(model: Path, **values: Any) -> ExecutorParameters:
    defaults = {name: option.default for name, option in EXECUTOR_OPTIONS.items()}
    return ExecutorParameters.of(defaults | {"model": str(model)} | values)


def values_of(status: DiagnosticStatus) -> dict[str, str]:
    return {item.key: item.value for item in status.values}


def test_a_build_is_told_on_its_topic_diagnostics_and_the_log(
    start: Start, client: Client, small_model: Path, tmp_path: Path
) -> None:
    told = client.collect(DiagnosticStatus, "/multi_camera/build_progress", HISTORY)
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    gate = tmp_path / "gate"
    process = start_slow(start, tmp_path, small_model, steps=20, gate=gate)

    def shown() -> list[str]:
        return [m.status[0].message for m in diagnostics]

    # However late the two find each other, the build waits until it has been seen on both topics.
    client.spin_until(
        lambda: (
            any(text.startswith("building small for cpu, ") for text in shown())
            and any(0.0 < float(values_of(status)["fraction"]) < 1.0 for status in told)
        ),
        60,
        "the build on ~/build_progress and /diagnostics",
    )
    gate.touch()
    client.spin_until(
        lambda: told and float(values_of(told[-1])["fraction"]) == 1.0, 60, "the end of the build"
    )
    process.wait_for("active: front")
    fractions = [float(values_of(status)["fraction"]) for status in told]
    assert fractions == sorted(fractions)
    # 2 s of building and more, a message each 0.5 s and one at the end.
    elapsed = float(values_of(told[-1])["elapsed_s"])
    assert 3 <= len(told) <= elapsed / 0.5 + 2
    assert told[0].name == "multi_camera: build small for cpu"
    assert (told[0].message, told[-1].message) == ("fusing layers", "built")
    assert values_of(told[0])["device"] == "cpu"
    assert "building small for cpu, 0%: fusing layers" in process.output
    assert "small for cpu: built" in process.output
    client.spin_until(lambda: shown()[-1] == "running", what="running")
    # A listener that comes later learns how it ended.
    late = client.collect(DiagnosticStatus, "/multi_camera/build_progress", LATCHED)
    client.spin_until(lambda: late and late[-1].message == "built")


def test_ctrl_c_ends_a_build(
    start: Start, client: Client, small_model: Path, tmp_path: Path
) -> None:
    process = start_slow(start, tmp_path, small_model, steps=600)
    process.wait_for("building small")
    # The build would take a minute.
    status, _ = process.stop(timeout=30.0)
    assert status == 0
    assert "Traceback" not in process.output


def test_every_detector_of_a_service_is_told_apart(
    client: Client, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = BuildProgress(client.node)
    seen: list[str] = []

    def create(options: DetectorOptions, device: Device) -> Detector:
        assert options.on_progress is not None
        options.on_progress(0.25, "tactics")
        seen.append(progress.text)
        return backends.onnxruntime_cpu(options, device)

    monkeypatch.setitem(factory.BACKENDS, ("onnxruntime", "cpu"), create)
    values = parameters(small_model, devices=["cpu"])
    service = DetectionService(client.node, values, {}, progress=progress).load()
    (device,), name = service.executor.devices, small_model.stem
    assert seen == ["building small for cpu, 25%: tactics"]
    # What came from a cache has no last message; it must not be shown for ever.
    assert progress.text == ""
    service.close()
    service.create(device, name).close()
    assert len(seen) == 2
    progress.cancel()
    with pytest.raises(Exception, match="the build of small for cpu was cancelled"):
        service.create(device, name)
    assert progress.text == ""


def test_the_simulated_engine_takes_progress_as_well(client: Client, small_model: Path) -> None:
    values = parameters(small_model, devices=["dla0"], engine="simulated")
    progress = BuildProgress(client.node)
    service = DetectionService(client.node, values, {}, progress=progress).load()
    assert list(service.executor.devices) == [Device("dla", 0)]
    assert progress.text == ""  # nothing was built
    service.close()
