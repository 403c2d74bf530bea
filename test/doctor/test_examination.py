# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What the machine and its devices are found to be, on this machine and on made-up ones."""

from __future__ import annotations

import ctypes
import json
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.command_line import call
from support.cudla import HARDWARE, StandIn
from support.tensorrt_fixtures import make_api, pretend_gpu

from yolox_trt.core.check import Check, Status, run
from yolox_trt.core.detections import Detections, iou_matrix
from yolox_trt.core.device import Device
from yolox_trt.core.errors import DeviceError
from yolox_trt.doctor import devices, dla, examination, machine
from yolox_trt.engines import trt_api
from yolox_trt.engines.cudla.library import load_cudla


def test_an_error_is_a_finding() -> None:
    def refuse() -> list[Check]:
        raise DeviceError("no core 1", expected="core 0", fix="use dla0")

    def break_down() -> list[Check]:
        raise OSError("lib  gone")

    assert [*run("DLA", refuse)] == [
        Check("DLA", Status.FAIL, "no core 1; expected core 0", "use dla0")
    ]
    (found,) = run("DLA", break_down)
    assert found.found == "OSError: lib gone"


def test_limits_that_are_too_low_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=64 << 20, total=64 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    memory, files, *_ = machine.limits()
    assert (memory.status, files.status) == (Status.NOTE, Status.NOTE)
    assert "64 MiB of 64 MiB free" in memory.found
    assert "--shm-size" in memory.fix
    assert files.fix == "ulimit -n 1024"


def test_a_cache_that_others_may_write_to_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("YOLOX_TRT_CACHE", str(tmp_path))
    (good,) = machine.caches()
    assert good.status is not Status.FAIL
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines").chmod(0o777)
    (bad,) = machine.caches()
    assert bad.status is Status.FAIL
    assert "mode 777" in bad.found
    assert bad.fix.endswith(f"chmod go-w {tmp_path / 'engines'}")


@pytest.mark.parametrize(
    ("state", "status"), [(0, Status.PASS), (5, Status.NOTE), (-1, Status.NOTE)]
)
def test_clock(monkeypatch: pytest.MonkeyPatch, state: int, status: Status) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(adjtimex=lambda _: state))
    assert [check.status for check in machine.clock()] == [status]


def test_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "_TEGRA_RELEASE", tmp_path / "nv_tegra_release")
    monkeypatch.setattr(devices, "_DRIVER_VERSION", tmp_path / "version")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (none,) = devices.driver()
    assert (none.status, none.found[:4]) == (Status.NOTE, "none")
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 'NVIDIA A, 570.1, 8 GiB'; echo 'NVIDIA B, 570.1, 9 GiB'\n")
    command.chmod(0o755)
    assert [check.found[:8] for check in devices.driver()] == ["NVIDIA A", "NVIDIA B"]
    command.write_text("#!/bin/sh\necho 'Driver/library version mismatch'; exit 18\n")
    (broken,) = devices.driver()
    assert broken.status is Status.FAIL
    assert "mismatch" in broken.found
    (tmp_path / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.0\nmore\n")
    assert [check.found for check in devices.driver()] == ["L4T R36 (release), REVISION: 4.0"]


def test_iou_matrix() -> None:
    boxes = np.array([[0, 0, 2, 2], [5, 5, 5, 9]], np.float32)
    others = np.array([[1, 0, 3, 2], [0, 0, 2, 2], [5, 5, 5, 9]], np.float32)
    np.testing.assert_allclose(iou_matrix(boxes, others), [[1 / 3, 1, 0], [0, 0, 0]])
    assert iou_matrix(boxes[:0], others).shape == (0, 3)


class _Wrong:
    """A device whose network finds other things than the CPU's."""

    def __init__(self, detector: Any) -> None:
        self._detector = detector

    def detect(self, *arguments: Any) -> list[Detections]:
        (found,) = self._detector.detect(*arguments)
        return [Detections(found.boxes + 500, found.scores, found.class_ids)]

    def close(self) -> None:
        self._detector.close()


def test_a_device_is_tried_against_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from yolox_trt.detectors import factory

    monkeypatch.setattr(devices, "_CALLS", 1)
    (good,) = devices.trial(Device("cpu"))
    assert good.status is Status.PASS, good.found
    create, made = factory.create_detector, []

    def create_wrong(options: Any) -> Any:
        made.append(options)
        detector = create(options)
        return detector if len(made) == 1 else _Wrong(detector)

    monkeypatch.setattr(factory, "create_detector", create_wrong)
    (bad,) = devices.trial(Device("cpu"))
    assert bad.status is Status.FAIL
    assert "0 of the CPU's" in bad.found


def test_a_device_that_is_not_there_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(examination, "_ros", lambda seconds: [])
    monkeypatch.setattr(devices, "_CALLS", 1)
    load_cudla.cache_clear()  # the stand-in of a test before this one may be in it
    assert call("doctor", "--device", "dla1", "--json", "-") == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert checks["software"]["area"] == "machine"
    core = [check for check in checks.values() if check["area"] == "dla1"]
    assert all(check["must"] for check in core)
    assert len(core) == 10 and core[-1]["name"] == "model on dla1 by cuDLA without CUDA"
    # All but the linter need the core, and each says for itself what it lacks.
    assert [c["name"] for c in core if c["status"] != "fail"] == ["dla-check"]
    found = checks["dla-check"]["found"]
    assert found.startswith("0 nodes fall back") and "242 run on the DLA; 1 loadable" in found
    assert "libcudla" in checks["model on dla1 by cuDLA"]["found"]
    assert "JetPack" in checks["model on dla1 by cuDLA"]["fix"]


def test_a_dla_core_is_looked_at_step_by_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(devices, "_TEGRA_RELEASE", tmp_path / "nv_tegra_release")
    (tmp_path / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.0\n")
    assert [check.found for check in dla.board()] == ["L4T R36 (release), REVISION: 4.0"]
    monkeypatch.setattr(dla, "_NODES", tmp_path)
    core = Device("dla", 1)
    (tmp_path / "nvhost-ctrl-nvdla0").write_text("")
    (none,) = dla.device_node(core)
    assert none.status is Status.FAIL and "but" in none.found and "nvdla0" in none.found
    (tmp_path / "nvhost-ctrl-nvdla1").write_text("")
    assert [check.status for check in dla.device_node(core)] == [Status.PASS]
    StandIn(monkeypatch, lambda inputs, outputs: None)
    (found,) = dla.cudla(core)
    assert found.found == f"cuDLA 1.2.1, 2 cores, dla1 has hardware {HARDWARE}"
    assert [check.found for check in devices.cudla()] == ["version 1.2.1, 2 DLA cores"]


def test_a_dla_core_is_built_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake, api = make_api("8.6")
    monkeypatch.setattr(trt_api, "_loaded", {"tensorrt": api})
    monkeypatch.setenv("YOLOX_TRT_CACHE", str(tmp_path))
    pretend_gpu(monkeypatch)
    core = Device("dla", 1)
    (found,) = dla.tensorrt(core)
    assert found.found == "TensorRT 8.6.1.6, 2 DLA cores"
    (engine,), (loadable,) = dla.build(core, standalone=False), dla.build(core, standalone=True)
    assert engine.found.endswith("0 layers on the GPU")
    assert "images float16:dla_linear, " in loadable.found
    (again,) = dla.build(core, standalone=True)
    assert again == loadable
    fake.num_dla_cores = 1
    with pytest.raises(DeviceError, match="1 DLA cores"):
        next(dla.tensorrt(core))


def test_what_is_not_installed_is_a_note_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "is_installed", lambda _: False)
    found = {check.name: check for _, check in examination.examine()}
    assert found["ROS"].status is Status.NOTE
    assert "make venv" in found["ROS"].fix
    assert found["CUDA"].fix.startswith("pip install cupy")
