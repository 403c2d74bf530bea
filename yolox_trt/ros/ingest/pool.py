# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""IngestPool: the ingest processes, seen from the executor's process."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import asdict, dataclass, field
from typing import Any

from std_msgs.msg import Header

from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.core.frame import Frame
from yolox_trt.detectors.host_memory import pin
from yolox_trt.ros.ingest.channel import IngestChannel
from yolox_trt.ros.ingest.frame_ring import EXTRA_SLOTS, FrameRing
from yolox_trt.ros.ingest.image_receiver import ImageSink, ImageTopic
from yolox_trt.ros.middleware import transport_environment

_LOGGER = logging.getLogger(__name__)

#: Restarts of one process in a row, each without a frame in between, before it is given up.
MAX_RESTARTS = 5
#: A process that has run for so many seconds has not failed at its start.
HEALTHY_AFTER = 60.0
#: Seconds before the second restart in a row; doubled for each further one.
FIRST_BACKOFF = 0.25


@dataclass
class _Camera:
    sink: ImageSink
    settings: dict[str, Any]
    ring: FrameRing | None = None
    generation: int = 0


@dataclass
class _Member:
    """One ingest process and the thread that listens to it; the last three are set by _start."""

    name: str
    cameras: dict[str, _Camera] = field(default_factory=dict)
    restarts: int = 0
    failures: int = 0
    frames: int = 0
    started: float = 0.0
    given_up: bool = False
    process: subprocess.Popen[bytes] = field(init=False)
    channel: IngestChannel = field(init=False)
    thread: threading.Thread = field(init=False)


class IngestPool:
    """N processes that subscribe to cameras and hand their images over in shared memory.

    A process that ends is started again, with its cameras. One that ends again and again before
    it has received an image is given up, and the others take its cameras over.

    Args:
        count: how many.
        name: prefix of their nodes' names.
        page_lock: whether the rings are page-locked for CUDA.
    """

    def __init__(self, count: int, name: str, *, page_lock: bool) -> None:
        self._lock = threading.Lock()
        self._page_lock = page_lock
        self._closing = threading.Event()
        self._generation = 0
        self._members = [_Member(f"{name}_ingest_{index}") for index in range(count)]
        for member in self._members:
            self._start(member)

    @property
    def pids(self) -> list[int]:
        """Process ids."""
        return [member.process.pid for member in self._members if not member.given_up]

    @property
    def restarts(self) -> int:
        """Restarts of all processes."""
        return sum(member.restarts for member in self._members)

    def subscribe(
        self, camera: str, sink: ImageSink, topic: ImageTopic, *, queue_depth: int
    ) -> None:
        """Have the process with the fewest cameras receive a camera.

        Args:
            camera: its name.
            sink: where its images go; called in the pool's threads.
            topic: what to subscribe to, its topic's name resolved.
            queue_depth: of the camera's Stream; the ring is sized by it.

        Raises:
            YoloxTrtError: every process has been given up.
        """
        settings = {"topic": asdict(topic), "slots": queue_depth + EXTRA_SLOTS}
        with self._lock:
            member = self._least_loaded()
            if member is None:
                raise YoloxTrtError(
                    "every ingest process has ended again and again",
                    expected="one that runs",
                    fix="look for its error in the log and restart multi_camera, or set the "
                    "parameter `ingest_processes` to 0",
                )
            member.cameras[camera] = _Camera(sink, settings)
            self._send_subscribe(member, camera)

    def unsubscribe(self, camera: str) -> None:
        """End a camera's subscription; images of it that are under way are still handed over."""
        with self._lock:
            for member in self._members:
                if member.cameras.pop(camera, None) is not None:
                    member.channel.send("unsubscribe", camera=camera)

    def close(self, timeout: float = 3.0) -> bool:
        """End the processes.

        Returns:
            Whether all have ended by themselves in `timeout` seconds, all together.
        """
        end = time.monotonic() + timeout
        with self._lock:
            self._closing.set()
            channels = [member.channel for member in self._members]
        for channel in channels:
            channel.close()
        ended = True
        for member in self._members:
            try:
                member.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                ended = False
                member.process.kill()
                member.process.wait()
            member.thread.join(1.0)  # the channel has ended: it is on its way
        return ended

    def _least_loaded(self) -> _Member | None:
        """Return the process with the fewest cameras; None if all are given up."""
        members = [member for member in self._members if not member.given_up]
        return min(members, key=lambda each: len(each.cameras), default=None)

    def _command(self, member: _Member, fd: int) -> list[str]:
        return [sys.executable, "-m", "yolox_trt.ros.ingest.process", member.name, str(fd)]

    def _start(self, member: _Member) -> None:
        channel, other = IngestChannel.pair()
        fd = other.fileno()
        member.process = subprocess.Popen(
            self._command(member, fd),
            pass_fds=[fd],
            env=transport_environment(),
            stdin=subprocess.DEVNULL,
            # Ctrl-C and a signal to the process group are the executor's process's: it ends this
            # one in order, and would take its death for a fault.
            start_new_session=True,
        )
        member.started = time.monotonic()
        other.close()
        member.channel = channel
        member.thread = threading.Thread(
            target=self._listen, args=(member, channel), name=member.name, daemon=True
        )
        member.thread.start()

    def _send_subscribe(self, member: _Member, camera: str) -> None:
        # Generations go up over all subscriptions, so that a late frame of a former one, or of a
        # process that was replaced, never finds a ring of another.
        self._generation += 1 << 16
        settings = member.cameras[camera].settings | {"generation": self._generation}
        member.channel.send("subscribe", camera=camera, **settings)

    def _listen(self, member: _Member, channel: IngestChannel) -> None:
        while (received := channel.receive()) is not None:
            message, fd = received
            try:
                self._handle(member, message, fd)
            except Exception:
                _LOGGER.exception("image of camera %s was lost", message["camera"])
        if not self._closing.is_set():
            self._replace(member)

    def _handle(self, member: _Member, message: dict[str, Any], fd: int | None) -> None:
        kind = message["kind"]
        ring = None if fd is None else FrameRing(message["slots"], message["slot_bytes"], fd)
        with self._lock:
            camera = member.cameras.get(message["camera"])
        if camera is None:
            return
        if ring is not None:
            camera.ring, camera.generation = ring, message["generation"]
            if self._page_lock and (unpin := pin(ring.images)) is not None:
                # Views of its slots keep a ring alive: it is released when nobody reads it.
                weakref.finalize(ring, unpin).atexit = False
        elif kind == "frame":
            if camera.ring is None or camera.generation != message["generation"]:
                return
            member.frames += 1
            fields = message["frame"]
            header = Header(frame_id=fields["frame_id"])
            header.stamp.sec, header.stamp.nanosec = divmod(fields["stamp_ns"], 1_000_000_000)
            data = camera.ring.view(message["slot"], message["size"])
            camera.sink.on_frame(Frame(data=data, header=header, **fields))
        elif kind == "refused":
            camera.sink.on_refused(message["reason"])
        elif kind == "full":
            camera.sink.on_full()
        elif kind == "lost":
            camera.sink.on_lost(message["count"])

    def _replace(self, member: _Member) -> None:
        """Start a process again that has ended by itself; called in its thread."""
        status = member.process.wait()
        member.channel.close()
        if member.frames or time.monotonic() - member.started > HEALTHY_AFTER:
            member.failures = 0
        member.failures += 1
        if member.failures > MAX_RESTARTS:
            _LOGGER.error("%s ended with status %d again and is given up", member.name, status)
            self._hand_over(member)
            return
        _LOGGER.error("%s ended with status %d; it is started again", member.name, status)
        member.frames = 0
        if member.failures > 1:
            self._closing.wait(FIRST_BACKOFF * 2 ** (member.failures - 2))
        with self._lock:
            if self._closing.is_set():
                return
            member.restarts += 1
            self._start(member)
            for name in member.cameras:
                self._send_subscribe(member, name)

    def _hand_over(self, member: _Member) -> None:
        """Give a member up; the others take its cameras over."""
        with self._lock:
            member.given_up = True
            for name in list(member.cameras):
                other = self._least_loaded()
                if other is None:
                    _LOGGER.error("no ingest process is left: camera %s gets no images", name)
                    continue
                other.cameras[name] = member.cameras.pop(name)
                self._send_subscribe(other, name)
