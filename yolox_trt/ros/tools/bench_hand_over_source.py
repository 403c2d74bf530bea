# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The source of `bench hand-over`: an ingest process that gets its images from nowhere."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolox_trt.core.decoding import STILL, Packet
from yolox_trt.core.device import Device
from yolox_trt.core.documents import parse_json
from yolox_trt.core.frame import Frame
from yolox_trt.core.limits import ImageLimits
from yolox_trt.core.optional import require
from yolox_trt.detectors.decoders import DecoderOptions, create_decoder
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
    cameras: dict[str, int] = {}
    make_frame = _frames_of_jpegs(settings) if settings["jpeg"] else _frames(settings)
    spent: list[float] = []
    pacer, cpu, alive = Pacer(settings["rate"]), 0.0, 0.0
    while True:
        if channel.poll(0.0):
            received = channel.receive()
            if received is None:
                break
            sink = _obey(channel, sink, received, settings["way"], cameras)
            if received[1] is not None:
                os.close(received[1])
        if time.monotonic() > alive + 0.5:
            alive = time.monotonic()
            channel.send("alive", cameras=cameras)
        pacer.wait()
        if sink is None:
            continue
        if len(spent) == _WARMUP:
            cpu = time.process_time()
        metadata = {"stamp_ns": time.time_ns(), "received_ns": time.monotonic_ns()}
        start = time.perf_counter()
        sink.on_frame(make_frame(len(spent), metadata))
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


#: Makes the Frame of a number, with metadata.
_MakeFrame = Callable[[int, dict[str, Any]], Frame]


def _noise(settings: dict[str, Any]) -> list[Any]:
    """Return images of coarse noise, uint8 (H, W, 3), which JPEG makes a tenth of."""
    height, width = settings["size"]
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (_IMAGES, height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return [cv2.resize(each, (width, height)) for each in coarse]


def _frames(settings: dict[str, Any]) -> _MakeFrame:
    images = _noise(settings)
    if settings["way"] == "host":
        return lambda i, metadata: Frame.from_array(images[i % _IMAGES], "bgr8", **metadata)
    cupy = require("cupy", purpose="images on a GPU")
    with cupy.cuda.Device(settings["device"]):
        arrays = [cupy.asarray(image) for image in images]
        cupy.cuda.get_current_stream().synchronize()
    return lambda i, metadata: Frame.on_device(arrays[i % _IMAGES], "bgr8", **metadata)


def _frames_of_jpegs(settings: dict[str, Any]) -> _MakeFrame:
    """Decode on the CPU for host memory, else on the GPU, if it has a decoder."""
    files = [cv2.imencode(".jpg", each)[1].tobytes() for each in _noise(settings)]
    where = DecoderOptions(decoder="cpu" if settings["way"] == "host" else "gpu")
    decoder = create_decoder(STILL, where, ImageLimits(), print, Device("gpu", settings["device"]))
    return lambda i, metadata: decoder.decode(Packet(STILL, files[i % _IMAGES], metadata))[0]


def _obey(
    channel: IngestChannel,
    sink: SharedMemorySink | None,
    received: tuple[dict[str, Any], int | None],
    way: str,
    cameras: dict[str, int],
) -> SharedMemorySink | None:
    """Do what the pool commands, and note the cameras, as an ingest process does."""
    message, fd = received
    kind, camera = message.pop("kind"), message.pop("camera")
    if kind == "device_ring":
        assert sink is not None
        sink.on_device_ring(fd, **message)
        return sink
    if sink is not None:
        sink.close()
    cameras.clear()
    if message.pop("topic", None) is None:
        return None
    cameras[camera] = message["generation"]
    sink = SharedMemorySink(camera, channel, print, **message)
    if way == "fetched":
        sink.on_device_ring(None, generation=0)  # as if there could be none
    return sink


if __name__ == "__main__":
    sys.exit(main())
