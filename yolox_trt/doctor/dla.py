# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A DLA core, from its device node to a detection by each of its engines: ten checks.

docs/dla.md lists them with the command that does each one by hand, and what it must print.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from yolox_trt.core.check import Check, Status
from yolox_trt.core.device import Device
from yolox_trt.core.shipped_files import default_model
from yolox_trt.doctor import devices
from yolox_trt.engines import cuda_driver

_NODES = Path("/dev")


def looks(device: Device) -> list[tuple[str, Callable[[], Iterable[Check]], str]]:
    """Return the ten checks of a DLA core, in the order in which one needs the other.

    Returns:
        Name, function, and what it says where the core works.
    """
    alike = "most of the CPU's detections found again"
    by_cudla = partial(devices.trial, device, engine="cudla")
    return [
        ("board", board, "L4T R35 (JetPack 5), R36 (6) or later"),
        ("device node", partial(device_node, device), f"{_node(device)} can be opened"),
        ("cuDLA", partial(cudla, device), f"cuDLA 1.x.y, 2 cores, and the hardware of {device}"),
        ("TensorRT's DLA", partial(tensorrt, device), "8.5 to 10.7, or 11.4.1; 2 DLA cores"),
        ("dla-check", partial(linter, device), "0 nodes fall back, 1 loadable"),
        ("engine", partial(build, device, standalone=False), "a file, 0 layers on the GPU"),
        ("loadable", partial(build, device, standalone=True), "a file, each tensor's format"),
        (f"model on {device}", partial(devices.trial, device, engine="tensorrt"), alike),
        (f"model on {device} by cuDLA", by_cudla, alike),
        (
            f"model on {device} by cuDLA without CUDA",
            partial(by_cudla, cudla_mode="standalone"),
            f"{alike}, with the GPU idle",
        ),
    ]


def _node(device: Device) -> Path:
    return _NODES / f"nvhost-ctrl-nvdla{device.index}"


def board() -> Iterator[Check]:
    """Look for a Jetson, and for the release of its Linux."""
    (found, *_) = devices.driver()
    if found.name == "Jetson":
        yield Check("board", Status.PASS, found.found)
    else:
        fix = "run this on a Xavier, Orin NX or AGX Orin"
        yield Check("board", Status.FAIL, "no Jetson: no /etc/nv_tegra_release", fix)


def device_node(device: Device) -> Iterator[Check]:
    """Look for the DLA's device node, and whether this user may open it."""
    name = "device node"
    node = _node(device)
    if not node.exists():
        others = sorted(str(path) for path in _NODES.glob("nvhost-*nvdla*"))
        found = f"no {node}" + (f", but {', '.join(others)}" if others else "")
        yield Check(name, Status.FAIL, found, "in a container: docker run --runtime nvidia")
        return
    try:
        node.open("rb").close()
    except OSError as error:
        fix = "sudo usermod -aG video,render $USER, and log in again"
        yield Check(name, Status.FAIL, f"{node}: {error.strerror}", fix)
        return
    yield Check(name, Status.PASS, f"{node} can be opened")


def cudla(device: Device) -> Iterator[Check]:
    """Ask cuDLA for its version, its cores, and the core's hardware."""
    from yolox_trt.engines.cudla.abi import Mode
    from yolox_trt.engines.cudla.library import load_cudla
    from yolox_trt.engines.cudla.module import read_hardware_version

    library = load_cudla()
    hardware = read_hardware_version(library, device.index, Mode.STANDALONE)
    found = f"cuDLA {library.version}, {library.cores} cores, {device} has hardware {hardware}"
    yield Check("cuDLA", Status.PASS, found)


def tensorrt(device: Device) -> Iterator[Check]:
    """Ask TensorRT for its DLA cores."""
    from yolox_trt.engines.trt_api import load_api, no_such_core

    api = load_api()
    api.require("dla", option=f"device {device}")
    cuda_driver.require_gpu(device, expected="a Jetson's GPU", fix="docker run --runtime nvidia")
    cores = int(api.module.Builder(api.logger).num_DLA_cores)
    if device.index >= cores:
        raise no_such_core(device, cores)
    yield Check("TensorRT's DLA", Status.PASS, f"{api}, {cores} DLA cores")


def linter(device: Device) -> Iterator[Check]:
    """Check the default model by the rules of the installed TensorRT, or of the linter's own."""
    from yolox_trt.compiler.dla import check
    from yolox_trt.compiler.dla.options import DlaTarget
    from yolox_trt.core.errors import YoloxTrtError
    from yolox_trt.engines.trt_api import load_api

    target = DlaTarget(precision="fp16")
    try:
        target = DlaTarget(precision="fp16", tensorrt=load_api("tensorrt").fingerprint_version)
        report = check(default_model(), target)
    except YoloxTrtError:  # which the check of TensorRT tells
        target = DlaTarget(precision="fp16")
        report = check(default_model(), target)
    found = (
        f"{len(report.fallback_nodes)} nodes fall back by the rules of TensorRT {target.tensorrt}, "
        f"{len(report.dla_nodes)} run on the DLA; {len(report.subgraphs)} loadable"
    )
    fix = "" if report.passes else "yolox_trt optimize MODEL --target dla"
    yield Check("dla-check", Status.PASS if report.passes else Status.FAIL, found, fix)


def build(device: Device, *, standalone: bool) -> Iterator[Check]:
    """Build the default model for the core, for TensorRT or as a loadable, or find it built."""
    from yolox_trt.compiler.tensorrt.load_engine import cached_engine
    from yolox_trt.compiler.tensorrt.options import BuildOptions
    from yolox_trt.engines.cache import EngineCache

    options = BuildOptions(
        device=device, max_batch=1, allow_gpu_fallback=not standalone, dla_standalone=standalone
    )
    entry = cached_engine(default_model(), options, EngineCache(None))
    details = entry.file.details
    found = f"{entry.file.path.name}, {entry.file.path.stat().st_size} bytes"
    if standalone:
        tensors = (f"{n} {t['type']}:{t['format']}" for n, t in details["tensors"].items())
        found += f": {', '.join(tensors)}"
    else:
        fallen = details["report"]["gpu_fallback_layers"]
        found += f", {len(fallen)} layers on the GPU"
    yield Check("loadable" if standalone else "engine", Status.PASS, found)
