# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""GPU, DLA and what runs networks: found, and (for a device that is named) tried."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from yolox_trt.core.check import Check, Status
from yolox_trt.core.detections import iou_matrix
from yolox_trt.core.device import Device
from yolox_trt.core.errors import MissingDependencyError
from yolox_trt.core.frame import Frame
from yolox_trt.core.optional import require
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.engines import cuda_driver

_TEGRA_RELEASE = Path("/etc/nv_tegra_release")
_DRIVER_VERSION = Path("/proc/driver/nvidia/version")
_CALLS = 10
#: Detections of the device and of the CPU are the same object from this overlap on.
_SAME = 0.8


def driver() -> Iterator[Check]:
    """Look for an NVIDIA GPU and its driver."""
    if _TEGRA_RELEASE.is_file():
        first = _TEGRA_RELEASE.read_text().partition("\n")[0].strip("# ")
        yield Check("Jetson", Status.PASS, f"L4T {first}")
        return
    command = shutil.which("nvidia-smi")
    if command is None:
        if _DRIVER_VERSION.is_file():
            yield Check("GPU", Status.PASS, _DRIVER_VERSION.read_text().partition("\n")[0])
        else:
            yield Check("GPU", Status.NOTE, "none: networks run on the CPU")
        return
    query = "--query-gpu=name,driver_version,memory.total"
    answer = subprocess.run(
        [command, query, "--format=csv,noheader"], capture_output=True, text=True, timeout=20
    )
    if answer.returncode:
        text = " ".join((answer.stdout + answer.stderr).split())
        yield Check("GPU", Status.FAIL, f"nvidia-smi: {text}", "install the driver again, reboot")
        return
    for line in answer.stdout.strip().splitlines():
        name, version, memory = (part.strip() for part in line.split(","))
        yield Check("GPU", Status.PASS, f"{name}, driver {version}, {memory}")


def cuda() -> Iterator[Check]:
    """Look for CUDA through CuPy, and compile and run a kernel with it."""
    cupy = require("cupy", purpose="running on a GPU")
    runtime = cupy.cuda.runtime
    count = runtime.getDeviceCount()
    numbers = cupy.arange(1000, dtype=cupy.int64)
    total = int(cupy.ElementwiseKernel("int64 x", "int64 y", "y = 2 * x", "doubled")(numbers).sum())
    version = ".".join(map(str, divmod(runtime.runtimeGetVersion() // 10, 100)))
    found = f"CuPy {cupy.__version__}, CUDA {version}, {count} device(s)"
    if total == 999000:
        yield Check("CUDA", Status.PASS, f"{found}; a kernel was compiled and ran")
    else:
        yield Check("CUDA", Status.FAIL, f"{found}; a kernel gave {total} instead of 999000")


def tensorrt() -> Iterator[Check]:
    """Look for TensorRT, and for the DLA cores that it sees."""
    from yolox_trt.engines.trt_api import load_api

    api = load_api()
    yield Check("TensorRT", Status.PASS, str(api))
    cores = 0
    if cuda_driver.compute_capability() is not None:  # without, TensorRT 11 ends the process
        cores = int(getattr(api.module.Builder(api.logger), "num_DLA_cores", 0))
    yield Check("DLA", Status.PASS if cores else Status.NOTE, f"{cores} cores" if cores else "none")


def cudla() -> Iterator[Check]:
    """Look for cuDLA's library."""
    from yolox_trt.engines.cudla.library import load_cudla

    try:
        library = load_cudla()
    except MissingDependencyError as error:
        found = "no libcudla.so.1: only Jetsons with a DLA have it"
        yield Check("cuDLA", Status.NOTE, found, error.fix if _TEGRA_RELEASE.is_file() else "")
        return
    yield Check("cuDLA", Status.PASS, f"version {library.version}, {library.cores} DLA cores")


def onnxruntime() -> Iterator[Check]:
    """Look for ONNX Runtime, and what it runs on."""
    runtime = require("onnxruntime", purpose="running ONNX models")
    there = runtime.get_available_providers()
    used = [kind for kind in ("CUDA", "CPU") if f"{kind}ExecutionProvider" in there]
    yield Check("ONNX Runtime", Status.PASS, f"{runtime.__version__}: {', '.join(used)}")


def trial(device: Device, *, engine: str = "auto", cudla_mode: str = "hybrid") -> Iterator[Check]:
    """Run the default model on a device, and compare its detections with the CPU's.

    Args:
        device: where.
        engine: see DetectorOptions.
        cudla_mode: likewise.
    """
    from yolox_trt.detectors.factory import create_detector
    from yolox_trt.detectors.options import DetectorOptions

    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    image = np.ascontiguousarray(image.repeat(8, axis=0).repeat(8, axis=1))
    frame = Frame.from_array(image)
    options = PostprocessOptions(score_threshold=0.02)
    found = []
    milliseconds = 0.0
    tried = DetectorOptions(device=device, engine=engine, cudla_mode=cudla_mode, input_size="model")
    for each in (DetectorOptions(device=Device("cpu"), input_size="model"), tried):
        with closing(create_detector(each)) as detector:
            started = time.perf_counter()
            for _ in range(_CALLS):
                (detections,) = detector.detect([frame], [options])
            milliseconds = 1e3 * (time.perf_counter() - started) / _CALLS
        found.append(detections)
    expected, got = found
    overlap = iou_matrix(expected.boxes, got.boxes)
    same = (overlap > _SAME) & (expected.class_ids[:, None] == got.class_ids)
    agreeing = int(same.any(axis=1).sum()) if len(got) else 0
    text = (
        f"{milliseconds:.1f} ms a frame of 1024x768; {agreeing} of the CPU's {len(expected)} "
        "detections in a noise image found again"
    )
    good = 2 * agreeing >= len(expected) > 0
    fix = "" if good else "yolox_trt evaluate MODEL on both devices tells how much they differ"
    how = {"cudla": " by cuDLA"}.get(engine, "")
    how += " without CUDA" if how and cudla_mode == "standalone" else ""
    yield Check(f"model on {device}{how}", Status.PASS if good else Status.FAIL, text, fix)
