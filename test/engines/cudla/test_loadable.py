# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Loadables that do not fit, and machines that do not: what is refused, and with which words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cudla import HARDWARE, StandIn, loadable
from support.cudla.network import Int8Network

from yolox_trt.core import Device, EngineError
from yolox_trt.core.errors import DeviceError, MissingDependencyError
from yolox_trt.core.faults import EngineFileError, OutOfMemoryError
from yolox_trt.engines.cudla import library
from yolox_trt.engines.cudla.abi import Mode, Status
from yolox_trt.engines.cudla.library import cudla_fault, load_cudla, status_name
from yolox_trt.engines.cudla.loadable import Loadable
from yolox_trt.engines.cudla.module import DlaModule, read_versions
from yolox_trt.engines.engine_file import EngineFile, is_loadable, read_engine


@pytest.fixture
def network() -> Int8Network:
    return Int8Network()


@pytest.fixture
def dla(monkeypatch: pytest.MonkeyPatch, network: Int8Network) -> Iterator[StandIn]:
    dla = StandIn(monkeypatch, network.compute, (1, 9))
    yield dla
    dla.check_clean()


def load(file: EngineFile, core: int = 0) -> None:
    DlaModule(load_cudla(), core, Mode.STANDALONE, Loadable(file)).close()


def refused(file: EngineFile, core: int = 0) -> EngineError:
    with pytest.raises(EngineFileError) as caught:
        load(file, core)
    return caught.value


def changed(network: Int8Network, name: str, changes: dict[str, Any]) -> bytes:
    """Return the network's loadable with another tensor."""
    tensors = {n: network.tensor(n) for n in network.layouts}
    tensors[name] = network.tensor(name)._replace(**changes)
    outputs = [tensors[n] for n in network.spec.tensor_names]
    return loadable([tensors[network.input_name]], outputs)


def test_a_loadable_that_fits(dla: StandIn, network: Int8Network, tmp_path: Path) -> None:
    file = network.write(tmp_path)
    load(file)
    assert is_loadable(file.path)
    found = Loadable(read_engine(file.path))
    assert found.spec.input_dtype == "int8" and found.layouts == network.layouts
    assert read_versions(0) == {"cudla": "1.2.1", "dla": HARDWARE}


def test_another_dla_version_is_refused_with_both_and_the_rebuild(
    dla: StandIn, network: Int8Network, tmp_path: Path
) -> None:
    file = network.write(tmp_path)
    dla.versions(hardware=1000)
    error = refused(file)
    assert "DLA hardware 2000" in error.found and "1000" in error.expected
    assert "yolox_trt build MODEL --device dla0 --dla-standalone" in error.fix
    # Where the sidecar does not tell, cuDLA does.
    error = refused(network.write(tmp_path, dla_versions={}))
    assert "cudlaErrorIncompatibleDlaSWVersion" in error.found
    assert "TensorRT 8.5.2.2" in error.found and "DLA hardware 1000" in error.expected
    assert "--dla-standalone" in error.fix
    dla.versions(cudla=2000003)
    error = refused(file)
    assert "cuDLA 1.2.1" in error.found and "cuDLA 2.0.3" in error.expected


def test_a_truncated_loadable_is_refused(
    dla: StandIn, network: Int8Network, tmp_path: Path
) -> None:
    file = network.write(tmp_path)
    file.path.write_bytes(file.data[:-8])
    with pytest.raises(EngineError, match="damaged"):
        read_engine(file.path)
    error = refused(network.write(tmp_path, file.data[:-8]))
    assert "cudlaErrorUmd" in error.found and "--dla-standalone" in error.fix


@pytest.mark.parametrize(
    ("name", "changes", "found", "expected"),
    [
        ("images", {"size": 64 * 96 * 3}, "bytes 18432", "24576: int8:dla_hwc4"),
        ("images", {"dtype": "float16"}, "type HALF", "INT8"),
        ("images", {"row": 96 * 3}, "bytes of a row 288", "384"),
        ("images", {"format": 1}, "format NCHW", "NHWC"),
        ("images", {"shape": (1, 4, 96, 64)}, "height 96", "64"),
        ("images", {"name": "pixels"}, "tensors pixels", "images"),
        ("reg_8", {"shape": (2, 4, 8, 12)}, "batch 2", "1: int8:chw32"),
        ("reg_8", {"name": "cls_8"}, "cls_8, obj_8", "reg_8"),
    ],
)
def test_other_formats_are_refused(
    dla: StandIn,
    network: Int8Network,
    tmp_path: Path,
    name: str,
    changes: dict[str, Any],
    found: str,
    expected: str,
) -> None:
    error = refused(network.write(tmp_path, changed(network, name, changes)))
    assert found in error.found and expected in error.expected
    assert "--dla-standalone" in error.fix


def test_int8_tensors_without_a_scale_are_named(network: Int8Network, tmp_path: Path) -> None:
    scales = {k: v for k, v in network.scales.items() if k not in ("images", "obj_8")}
    with pytest.raises(EngineError, match="unknown scale: images, obj_8") as caught:
        Loadable(network.write(tmp_path, io_scales=scales))
    assert "yolox_trt calibrate" in caught.value.fix and "yolox_trt translate" in caught.value.fix


@pytest.mark.parametrize(
    "details",
    [
        {"tensors": {"images": {"shape": [1]}}},
        {"tensors": [1]},
        {"tensors": {"images": 5}},
        {"io_scales": ["images"]},
        {"io_scales": {"images": "much"}},
        {"dla_versions": 5},
        *(
            {"tensors": {"images": {"shape": [1, 3, 64, 96], "type": "int8"} | wrong}}
            for wrong in ({}, {"format": "linear", "type": "uint8"}, {"shape": [1, -3, 64, 96]})
        ),
    ],
)
def test_sidecars_that_do_not_tell_the_tensors(
    network: Int8Network, tmp_path: Path, details: dict[str, Any]
) -> None:
    with pytest.raises(EngineError, match="does not tell its tensors") as caught:
        Loadable(network.write(tmp_path, **details))
    assert "--dla-standalone" in caught.value.fix


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_are_none(network: Int8Network, tmp_path: Path, scale: float) -> None:
    file = network.write(tmp_path)
    scales = network.scales | {"images": scale}
    file = dataclasses.replace(file, details={**file.details, "io_scales": scales})
    with pytest.raises(EngineError, match="unknown scale: images"):
        Loadable(file)


def test_an_engine_of_tensorrt_is_refused(network: Int8Network, tmp_path: Path) -> None:
    file = network.write(tmp_path)
    fingerprint = dataclasses.replace(file.fingerprint, options={"dla_standalone": False})
    with pytest.raises(EngineError, match="engine of TensorRT"):
        Loadable(dataclasses.replace(file, fingerprint=fingerprint))
    assert not is_loadable(tmp_path / "none.engine")
    (tmp_path / "yolox.engine.json").write_text("[]")
    assert not is_loadable(file.path)


def test_another_core(dla: StandIn, network: Int8Network, tmp_path: Path) -> None:
    found = Loadable(network.write(tmp_path))
    with pytest.raises(EngineError, match="built for dla0"):
        found.check_device(Device("dla", 1))
    dla.versions(cores=0)
    with pytest.raises(DeviceError, match="dla0 with 0 DLA cores"):
        load(found.file)


def test_without_cudla_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    file, fix = library.LIBRARIES["cudla"]
    monkeypatch.setattr(library, "LIBRARIES", {"cudla": ("libcudla-none.so.1", fix)})
    load_cudla.cache_clear()
    with pytest.raises(
        MissingDependencyError, match=r"libcudla-none.so.1 cannot be loaded"
    ) as caught:
        load_cudla()
    assert "libcudla-12-6" in caught.value.fix and "JetPack" in caught.value.fix
    assert read_versions(0) == {}
    monkeypatch.setattr(library, "LIBRARIES", {"cudla": ("libm.so.6", fix)})
    with pytest.raises(MissingDependencyError, match="without cudlaGetVersion"):
        load_cudla()
    assert file == "libcudla.so.1"


def test_faults_by_name() -> None:
    assert (
        status_name(Status.ErrorDlaErrEngineTimeout)
        == f"cudlaErrorDlaErrEngineTimeout ({0x40000006})"
    )
    assert isinstance(cudla_fault(Status.ErrorDlaErrNoMem, "x"), OutOfMemoryError)
    assert "cudlaStatus 0x2a" in cudla_fault(42, "x").found
