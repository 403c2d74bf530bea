# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""From an ingest process to detections: images in host memory, and in a GPU's.

The source's time begins where a decoder has the image, or with `jpeg` the file, and ends when this
process has been told of it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yolox_trt.core.documents import parse_json
from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.core.frame import Frame
from yolox_trt.core.optional import is_installed
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.core.shipped_files import default_model
from yolox_trt.detectors.detector import Detector
from yolox_trt.detectors.factory import create_detector, sized_for
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.evaluation.bench.report import Report, Table
from yolox_trt.evaluation.bench.timing import describe_machine, percentiles
from yolox_trt.ros.ingest.image_topic import ImageTopic
from yolox_trt.ros.ingest.pool import IngestPool
from yolox_trt.ros.module_command import module_command
from yolox_trt.ros.tools.options import HandOverOptions

#: What the source does with its images -> what the table calls it.
WAYS = {
    "host": "host memory: copy in, upload",
    "fetched": "GPU, through host memory: fetch, copy in, upload",
    "device": "GPU memory: copy on the GPU (CUDA IPC)",
}
#: Seconds until the first image; the source may have to make a CUDA context.
START_TIMEOUT = 120.0
#: Seconds from there until images come in the GPU's memory.
RING_TIMEOUT = 10.0
_COLUMNS = {
    "images": "{way}",
    "received": "{frames}",
    "no room": "{lost}",
    "on the GPU": "{on_device}",
    "source us": "{source_us:.0f}",
    "its CPU us": "{source_cpu_us:.0f}",
    "arrives after us": "{arrival_us:.0f}",
    "detect() us": "{detect_us:.0f}",
    "its p99": "{detect_p99_us:.0f}",
    "detecting process's CPU us": "{cpu_us:.0f}",
    "all us": "{total_us:.0f}",
    "all p99": "{total_p99_us:.0f}",
}


class _SourcePool(IngestPool):
    """A pool whose process is the benchmark's source.

    Args:
        settings: of the source.
        others: those of IngestPool.
    """

    def __init__(self, settings: dict[str, Any], **others: Any) -> None:
        self._settings = json.dumps(settings)
        super().__init__(1, "bench", **others)

    def _command(self, member: Any, fd: int) -> list[str]:
        module = "yolox_trt.ros.tools.bench_hand_over_source"
        return module_command(module, fd, self._settings)


class _DetectingSink:
    """Detects in each image as it comes, in the pool's thread."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._options = [PostprocessOptions(0.5, 0.45)]
        self.times: list[tuple[int, int, int]] = []  # handed over, arrived, detected, in ns
        self.on_device = 0
        self.lost = 0
        self.refusal = ""

    def on_frame(self, frame: Frame) -> None:
        """Detect."""
        arrived = time.monotonic_ns()
        if frame.device_array is not None:
            self.on_device += 1
        self._detector.detect([frame], self._options)
        self.times.append((frame.received_ns, arrived, time.monotonic_ns()))

    def on_refused(self, reason: str) -> None:
        """Keep the reason."""
        self.refusal = reason

    def on_full(self) -> None:
        """Count it."""
        self.lost += 1

    def on_lost(self, count: int) -> None:
        """Count them."""
        self.lost += count


def measure(options: HandOverOptions, on_progress: Progress = no_progress) -> Report:
    """Measure each way with the same detector.

    Raises:
        YoloxTrtError: no image comes, or their source ends.
    """
    wanted = DetectorOptions(
        model=options.model or default_model(),
        device=options.device,
        engine=options.engine,
        precision=options.precision,
    )
    detector = create_detector(sized_for(wanted, options.size))
    figures = []
    try:
        detector.warmup()
        gpu = detector.reads_device_arrays and is_installed("cupy")
        ways = list(WAYS) if gpu else ["host"]
        for done, way in enumerate(ways):
            on_progress("measuring", done, len(ways), WAYS[way])
            figures.append(_measure_way(options, way, detector))
    finally:
        detector.close()
    height, width = options.size
    title = (
        f"{height}x{width} {'JPEG' if options.jpeg else 'bgr8'} at {options.rate:g} Hz on "
        f"{detector.device}, {Path(str(wanted.model)).name}, {options.duration:g} s; medians"
    )
    notes = [describe_machine()]
    if not gpu:
        notes.append("no detector on a GPU: its memory was not measured")
    failed = gpu and figures[-1]["on_device"] < figures[-1]["frames"]
    if failed:
        notes.append("images did not come in the GPU's memory; a line above says why")
    document = {"figures": figures, "machine": notes[0]}
    return Report(document, [Table.of(_COLUMNS, figures, title)], notes, failed)


def _measure_way(options: HandOverOptions, way: str, detector: Detector) -> dict[str, Any]:
    sink = _DetectingSink(detector)
    topic = ImageTopic(name="", transport="raw", reliability="reliable", depth=1)
    with tempfile.TemporaryDirectory(prefix="yolox_trt_bench_") as folder:
        file = Path(folder) / "source.json"
        settings = {
            "way": way,
            "size": options.size,
            "rate": options.rate,
            "jpeg": options.jpeg,
            "device": detector.device.cuda_index,
            "file": str(file),
        }
        pool = _SourcePool(settings, devices=[detector.device])
        try:
            pool.subscribe("camera", sink, topic, queue_depth=1)
            _wait_for(lambda: bool(sink.times), sink, pool)
            ring_due = time.monotonic() + RING_TIMEOUT
            while way == "device" and not sink.on_device and time.monotonic() < ring_due:
                time.sleep(0.02)
            time.sleep(options.warmup)
            first, on_device, cpu = len(sink.times), sink.on_device, time.process_time()
            lost = sink.lost
            time.sleep(options.duration)
            cpu = time.process_time() - cpu
            times = sink.times[first:]
            on_device, lost = sink.on_device - on_device, sink.lost - lost
        finally:
            pool.close(START_TIMEOUT)
        if pool.restarts or not file.exists():
            raise YoloxTrtError("the source ended while it was measured", fix="see the log above")
        source = parse_json(file.read_text())
    if not times:
        raise YoloxTrtError("no image arrived while it was measured", fix="see the log above")
    detect = percentiles([(end - begin) * 1e-3 for _, begin, end in times], 50, 99)
    total = percentiles([(end - begin) * 1e-3 for begin, _, end in times], 50, 99)
    return {
        "way": WAYS[way],
        "frames": len(times),
        "lost": lost,
        "on_device": min(on_device, len(times)),
        **source,
        "arrival_us": percentiles([(b - a) * 1e-3 for a, b, _ in times], 50)[0],
        "detect_us": detect[0],
        "detect_p99_us": detect[1],
        "cpu_us": cpu / len(times) * 1e6,
        "total_us": total[0],
        "total_p99_us": total[1],
    }


def _wait_for(done: Callable[[], bool], sink: _DetectingSink, pool: IngestPool) -> None:
    end = time.monotonic() + START_TIMEOUT
    while not done():
        if time.monotonic() > end:
            why = sink.refusal or pool.fault("camera") or "it has said nothing"
            raise YoloxTrtError(f"no image of the source in {START_TIMEOUT:g} s: {why}")
        time.sleep(0.02)
