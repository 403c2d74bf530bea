# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""From host bytes to host detections on the GPU, part by part."""

from __future__ import annotations

import statistics
import time
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from yolox_trt.core.device import Device
from yolox_trt.core.frame import Frame
from yolox_trt.core.optional import require
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.core.shipped_files import default_model
from yolox_trt.detectors import backends
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.evaluation.bench.device_timing import between_events, describe_device, device_time
from yolox_trt.evaluation.bench.report import Report, Table
from yolox_trt.evaluation.bench.timing import median_time
from yolox_trt.evaluation.options import PipelineOptions

if TYPE_CHECKING:
    import onnx

#: Frames that are rotated, for each place in the batch.
_SETS = 4
_COLUMNS = {
    "type": "{precision}",
    "batch": "{batch}",
    "detect ms": "{detect_ms:.3f}",
    "engine ms": "{engine_ms:.3f}",
    "PCIe copy ms": "{copy_ms:.3f}",
    "else us/frame": "{else_us:.0f}",
    "two under way: ms/call": "{pipelined_ms:.3f}",
    "their else us/frame": "{pipelined_else_us:.0f}",
    "pinned frames: detect ms": "{pinned_ms:.3f}",
    "pinned else us/frame": "{pinned_else_us:.0f}",
    "graph": "{graph}",
}


def measure(options: PipelineOptions, on_progress: Progress = no_progress) -> Report:
    """Measure every precision with every batch."""
    path = str(options.model or default_model())
    model: onnx.ModelProto = require("onnx", purpose="reading the model").load(path)
    device = describe_device()
    figures = []
    notes = [device]
    runs = list(product(options.precisions, options.batches))
    for done, (precision, batch) in enumerate(runs):
        on_progress("measuring", done, len(runs))
        if figure := measure_calls(model, precision, batch, options):
            figures.append(figure)
        else:
            note = f"batch {batch} left out: the model's batch is fixed, and cannot be opened"
            notes += [note] if note not in notes else []
    return Report({"device": device, "runs": figures}, [Table.of(_COLUMNS, figures)], notes)


def measure_calls(
    model: onnx.ModelProto, precision: str, batch: int, settings: PipelineOptions
) -> dict[str, Any] | None:
    """Measure one precision and batch; None if the model cannot take that batch.

    "else" is what remains of the wall-clock time of a call when the engine's device time and the
    upload of whole frames from pinned memory (both measured alone) are taken off. Of a strong
    downscale only the sampled rows go up, so there it can be less than nothing.
    """
    cupy = require("cupy")
    if precision == "fp16":
        from yolox_trt.graph.float16 import to_float16
        from yolox_trt.graph.graph import Graph

        converted = Graph(model)
        to_float16(converted, float16_input=True)
        model = converted.to_model()
    wanted = DetectorOptions(model=model, max_batch=batch)
    detector = backends.onnxruntime_cuda(wanted, Device("gpu"))
    engine, stream = detector.engine, detector.stream
    if detector.max_batch < batch:
        detector.close()
        return None
    rng = np.random.default_rng(0)
    shape = (*settings.size, 3)
    calls = settings.calls
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(_SETS * batch)]
    options = [PostprocessOptions(0.5, 0.45)] * batch

    def frame_sets(arrays: list[Any]) -> list[list[Frame]]:
        frames = [Frame.from_array(array, settings.encoding) for array in arrays]
        return [frames[i * batch : (i + 1) * batch] for i in range(_SETS)]

    sets = frame_sets(images)
    detector.warmup()
    for frames in sets:
        detector.detect(frames, options)
    detect = median_time(lambda i: detector.detect(sets[i % _SETS], options), calls)

    def pipelined() -> float:
        start = time.perf_counter()
        last = detector.enqueue(sets[0], options)
        for i in range(1, calls):
            ticket = detector.enqueue(sets[i % _SETS], options)
            detector.collect(last)
            last = ticket
        detector.collect(last)
        return (time.perf_counter() - start) / calls

    interval = statistics.median(pipelined() for _ in range(3))

    pinned_images = []
    for image in images:
        memory = cupy.cuda.alloc_pinned_memory(image.nbytes)
        pinned = np.frombuffer(memory, np.uint8, image.nbytes).reshape(shape)
        pinned[:] = image
        pinned_images.append(pinned)
    pinned_sets = frame_sets(pinned_images)
    detector.detect(pinned_sets[0], options)
    pinned_detect = median_time(lambda i: detector.detect(pinned_sets[i % _SETS], options), calls)

    engine_time = device_time(lambda _: engine.run(batch, stream), replays=30, stream=stream)
    device = cupy.empty(images[0].nbytes, np.uint8)

    def upload() -> None:
        for pinned in pinned_sets[0]:
            cupy.cuda.runtime.memcpyAsync(
                device.data.ptr,
                pinned.data.ctypes.data,
                device.nbytes,
                cupy.cuda.runtime.memcpyHostToDevice,
                stream.ptr,
            )

    copy = statistics.median(between_events(upload, stream) for _ in range(20))
    graph = detector.graph_refusal or "yes"
    detector.close()
    per_frame = 1e6 / batch
    return {
        "precision": precision,
        "batch": batch,
        "detect_ms": detect * 1e3,
        "engine_ms": engine_time * 1e3,
        "copy_ms": copy * 1e3,
        "else_us": (detect - engine_time - copy) * per_frame,
        "pipelined_ms": interval * 1e3,
        "pipelined_else_us": (interval - max(engine_time, copy)) * per_frame,
        "pinned_ms": pinned_detect * 1e3,
        "pinned_else_us": (pinned_detect - engine_time - copy) * per_frame,
        "graph": graph,
    }
