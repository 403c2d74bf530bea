# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What a captured ingest process may say: the executor's process follows it, and goes on."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import socket
import time
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy")

from std_msgs.msg import Header
from support.fuzz import examples, keep

from yolox_trt.detectors.auto_size import picture_of
from yolox_trt.ros.ingest import pool as ingest_pool
from yolox_trt.ros.ingest.channel import IngestChannel
from yolox_trt.ros.ingest.frame_ring import FrameRing
from yolox_trt.ros.ingest.pool import IngestPool
from yolox_trt.ros.messages.images import write_header

#: Values where another one is expected.
ODD = st.sampled_from(
    (None, True, -1, 0, 1, 5, 1 << 31, 1 << 63, 1 << 80, 0.5, 1e308, "", "front", "x" * 300)
) | st.sampled_from(([], [1], [1 << 20] * 2, ["front"], {}, {"front": 1}, {"\ud800": []}))
#: Fields as a sound process sends them.
SOUND: dict[str, Any] = {
    "camera": "front",
    "generation": 0,
    "slots": 2,
    "slot_bytes": 4096,
    "slot": 0,
    "size": 12,
    "reason": "why",
    "count": 1,
    "bus_id": "0000:00:00.0",
    "cameras": {},
    "frame": {
        **{"height": 2, "width": 2, "encoding": "bgr8", "step": 6, "stamp_ns": 5, "frame_id": "f"},
        **{"received_ns": 1, "reduction": 1, "full_size": None},
    },
}
KINDS = (
    *("alive", "ring", "frame", "refused", "full", "lost", "failed"),
    *("device_ring_wanted", "device_ring_closed", "other"),
)
FIELDS = (*SOUND, *(f"frame.{name}" for name in SOUND["frame"]))


class Sink:
    """Looks at what a camera gets as its node does."""

    def __init__(self) -> None:
        self.frames: list[Any] = []
        self.refused: list[str] = []

    def on_frame(self, frame: Any) -> None:
        assert frame.stream_id == "front" and frame.device_array is None
        assert 0 <= int(frame.data.sum()) <= 255 * frame.data.size
        assert isinstance(hash(picture_of(frame)), int)
        write_header(Header(), frame)
        assert math.prod(frame.source_size) <= 64 * frame.height * frame.width
        self.frames.append(frame)

    def on_refused(self, reason: str) -> None:
        assert reason.isprintable()
        self.refused.append(reason)

    def on_full(self) -> None: ...

    def on_lost(self, count: int) -> None:
        assert type(count) is int and count >= 0


class NoTracebacks(logging.Handler):
    """Takes none: what a process says is no mistake of who hears it, nor is it to be kept."""

    def emit(self, record: logging.LogRecord) -> None:
        assert not record.exc_info, self.format(record)


def message(kind: str, generation: int, changes: dict[str, Any]) -> bytes:
    fields = SOUND | {"kind": kind, "generation": generation, "frame": dict(SOUND["frame"])}
    for name, each in changes.items():
        value = copy.deepcopy(each)  # each by itself: a frame must not be its own height
        at, _, field = name.partition(".")
        if field and isinstance(fields.get(at), dict):
            fields[at][field] = value
        elif not field:
            fields[at] = value
    return json.dumps(fields).encode()


@examples(60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(KINDS),
            st.dictionaries(st.sampled_from(("kind", *FIELDS)), ODD, max_size=2),
            st.sampled_from(("none", "ring", "unsealed")),
        ),
        max_size=12,
    )
)
def test_what_a_captured_process_says(said: list[tuple[str, dict[str, Any], str]]) -> None:
    """It is believed, or costs an image of its own cameras: no thread, no descriptor."""
    keep(said)
    pool, sink = IngestPool(0, "pool"), Sink()
    member = ingest_pool._Member("captured")
    member.channel, end = IngestChannel.pair()
    member.cameras["front"] = ingest_pool._Camera(sink, {"slots": 6})
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    ring, unsealed = FrameRing(2, 4096), os.memfd_create("unsealed")
    os.ftruncate(unsealed, 1 << 20)
    descriptors = {"none": [], "ring": [ring.fd], "unsealed": [unsealed]}
    before, begin = psutil.Process().num_fds(), time.monotonic()
    generation = 1 << 40  # larger than that of any command
    for kind, changes, given_fd in said:
        socket.send_fds(end, [message(kind, generation, changes)], descriptors[given_fd])
    socket.send_fds(end, [message("ring", generation + 1, {})], [ring.fd])
    end.send(message("frame", generation + 1, {}))
    end.send(message("refused", generation, {"reason": "the last one"}))
    end.shutdown(socket.SHUT_WR)
    logger, handler = logging.getLogger(ingest_pool.__name__), NoTracebacks()
    logger.addHandler(handler)
    try:
        pool._listen(member)
    finally:
        logger.removeHandler(handler)
    assert sink.refused[-1] == "the last one"
    assert sink.frames and len(sink.frames[-1].data) == 12, "a sound image after all that"
    assert time.monotonic() - begin < 15.0
    # A mapping of a ring keeps a descriptor of its own until the ring has gone.
    sink.frames.clear()
    member.cameras["front"].ring = None
    assert psutil.Process().num_fds() == before
    member.channel.close()
    end.close()
    os.close(unsealed)
    ring.close_fd()
