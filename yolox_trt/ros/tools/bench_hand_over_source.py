# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The source of `bench hand-over`: an ingest process whose images are decoded already."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from yolox_trt.core.documents import parse_json
from yolox_trt.core.frame import Frame
from yolox_trt.core.optional import require
from yolox_trt.evaluation.bench.timing import percentiles
from yolox_trt.evaluation.pacing import Pacer
from yolox_trt.ros.ingest.channel import IngestChannel
from yolox_trt.ros.ingest.shared_memory_sink import SharedMemorySink

#: Images that take turns.
_IMAGES = 4
#: Images at the start whose times do not count: rings are made meanwhile.
_WARMUP = 10


def main() -> int:
    """Send images until the channel ends, and write this process's figures into a file.

    The arguments are the channel's descriptor and, in JSON, the settings of bench_hand_over.
    """
    channel = IngestChannel(socket.socket(fileno=int(sys.argv[1])))
    settings: dict[str, Any] = parse_json(sys.argv[2])
    sink: SharedMemorySink | None = None
    images = _images(settings)
    make = Frame.from_array if settings["way"] == "host" else Frame.on_device
    spent: list[float] = []
    pacer, cpu, alive = Pacer(settings["rate"]), 0.0, 0.0
    while True:
        if channel.poll(0.0):
            received = channel.receive()
            if received is None:
                break
            sink = _obey(channel, sink, received, settings["way"])
        if time.monotonic() > alive + 0.5:
            alive = time.monotonic()
            channel.send("alive")
        pacer.wait()
        if sink is None:
            continue
        if len(spent) == _WARMUP:
            cpu = time.process_time()
        metadata = {"stamp_ns": time.time_ns(), "received_ns": time.monotonic_ns()}
        image = images[len(spent) % _IMAGES]
        frame = make(image, "bgr8", **metadata)
        start = time.perf_counter()
        sink.on_frame(frame)
        spent.append(time.perf_counter() - start)
    cpu = time.process_time() - cpu
    if sink is not None:
        sink.close()
    measured = spent[_WARMUP:] or spent
    figures = {
        "source_us": percentiles(measured, 50)[0] * 1e6,
        "source_cpu_us": cpu / max(1, len(measured)) * 1e6,
    }
    Path(settings["file"]).write_text(json.dumps(figures))
    return 0


def _images(settings: dict[str, Any]) -> list[Any]:
    rng = np.random.default_rng(0)
    shape = (*settings["size"], 3)
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(_IMAGES)]
    if settings["way"] == "host":
        return images
    cupy = require("cupy", purpose="images on a GPU")
    with cupy.cuda.Device(settings["device"]):
        arrays = [cupy.asarray(image) for image in images]
        cupy.cuda.get_current_stream().synchronize()
    return arrays


def _obey(
    channel: IngestChannel,
    sink: SharedMemorySink | None,
    received: tuple[dict[str, Any], int | None],
    way: str,
) -> SharedMemorySink | None:
    """Do what the pool commands, as an ingest process does."""
    message, fd = received
    kind, camera = message.pop("kind"), message.pop("camera")
    if kind == "device_ring":
        assert sink is not None
        sink.on_device_ring(fd, **message)
        return sink
    if sink is not None:
        sink.close()
    if message.pop("topic", None) is None:
        return None
    sink = SharedMemorySink(camera, channel, print, **message)
    if way == "fetched":
        sink.on_device_ring(None, generation=0)  # as if there could be none
    return sink


if __name__ == "__main__":
    sys.exit(main())
