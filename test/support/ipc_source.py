# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A process that stands for an ingest process whose decoder leaves images on the GPU.

Arguments: the channel's descriptor, "stand-in" or "gpu" for what `cupy` is, and sizes such as
96x64,128x64 (H x W), each of which it sends for some images. The pixels of image `i`, whose stamp
is `i`, are all `i` modulo 251.
"""

from __future__ import annotations

import os
import socket
import sys
import time

from support import ipc_host

if sys.argv[2] == "stand-in":
    sys.modules["cupy"] = ipc_host.make_cupy()

import cupy
import numpy as np

from yolox_trt.core.frame import Frame
from yolox_trt.ros.ingest import shared_memory_sink
from yolox_trt.ros.ingest.channel import IngestChannel
from yolox_trt.ros.ingest.shared_memory_sink import SharedMemorySink

#: Images of one size.
EACH = 150

shared_memory_sink.ASK_AGAIN = 0.05
channel = IngestChannel(socket.socket(fileno=int(sys.argv[1])))
sizes = [tuple(map(int, size.split("x"))) for size in sys.argv[3].split(",")]
sink, cameras = None, {}
number = 0
while True:
    if channel.poll(0.002):
        received = channel.receive()
        if received is None:
            break
        message, fd = received
        kind, camera = message.pop("kind"), message.pop("camera")
        if kind == "device_ring":
            assert sink is not None
            sink.on_device_ring(fd, **message)
            if fd is not None:
                os.close(fd)
        else:
            if sink is not None:
                sink.close()
            topic = message.pop("topic", None)
            cameras = {} if topic is None else {camera: message["generation"]}
            sink = None if topic is None else SharedMemorySink(camera, channel, print, **message)
    if sink is None:
        continue
    height, width = sizes[number // EACH % len(sizes)]
    pixels = cupy.asarray(np.full((height, width, 3), number % 251, np.uint8))
    cupy.cuda.get_current_stream().synchronize()  # as a decoder does
    frame = Frame.on_device(pixels, "bgr8", stamp_ns=number, received_ns=time.monotonic_ns())
    sink.on_frame(frame)
    channel.send("alive", cameras=cameras)
    number += 1
