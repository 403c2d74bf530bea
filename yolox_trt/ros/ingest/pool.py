# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""IngestPool: the ingest processes, seen from the executor's process."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from yolox_trt.core.device import Device
from yolox_trt.core.encodings import ENCODINGS, check_buffer
from yolox_trt.core.errors import DeviceError, YoloxTrtError
from yolox_trt.core.frame import Frame
from yolox_trt.core.limits import LIMITS, clean_text
from yolox_trt.detectors.device_memory import device_at
from yolox_trt.detectors.host_memory import pin
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.ingest.channel import IngestChannel
from yolox_trt.ros.ingest.device_ring import DeviceRing
from yolox_trt.ros.ingest.frame_ring import EXTRA_SLOTS, FrameRing
from yolox_trt.ros.ingest.image_topic import ImageSink, ImageTopic
from yolox_trt.ros.ingest.message_fields import check_message, frame_fields
from yolox_trt.ros.middleware import transport_environment
from yolox_trt.ros.module_command import module_command

_LOGGER = logging.getLogger(__name__)

#: A process that has run for so many seconds has not failed at its start.
HEALTHY_AFTER = 60.0
#: Seconds before the second restart in a row, doubled for each further one, and the longest time.
FIRST_BACKOFF, LONGEST_BACKOFF = 0.25, 10.0
#: Seconds without a sign of life after which a process is replaced, and those until its first one:
#: it imports rclpy, which takes long where many processes start at once.
SILENCE_LIMIT, START_LIMIT = 5.0, 60.0
#: Seconds that a process gets to end.
END_LIMIT = 3.0
#: Seconds between two looks at the clock.
POLL = 0.25
#: Seconds after which a process is told once more of a camera that it has not subscribed to.
RETRY = 1.0
#: Restarts in a row of a process that hears nothing: its cameras may publish no image, too.
DEAF_RESTARTS = 2


@dataclass
class _Camera:
    """What a process was asked for, and what became of it.

    Attributes:
        sink: where the images go.
        settings: the command's fields.
        asked_at: time.monotonic() of the last command.
        generation: number of that command; rings made since have larger ones.
        ring: the ring in use, and its generation.
        device_ring: the last one that was lent, while somebody uses it, and its generation.
        fault: why it cannot be subscribed to, "" where it can.
    """

    sink: ImageSink
    settings: dict[str, Any]
    asked_at: float = 0.0
    generation: int = 0
    ring: tuple[int, FrameRing] | None = None
    device_ring: tuple[int, weakref.ref[DeviceRing]] | None = None
    fault: str = ""


@dataclass
class _Member:
    """One ingest process and the thread that watches it; the last ones are set when it starts.

    Attributes:
        deaf: processes in a row that heard nothing of cameras that publish.
        lent: generation -> DeviceRing that the process may write to: it must not be freed before
            the process has closed it, or has ended.
    """

    name: str
    cameras: dict[str, _Camera] = field(default_factory=dict)
    restarts: int = 0
    failures: int = 0
    deaf: int = 0
    fault: str = ""
    started: float = 0.0
    lent: dict[int, DeviceRing] = field(default_factory=dict)
    process: subprocess.Popen[bytes] = field(init=False)
    channel: IngestChannel = field(init=False)
    thread: threading.Thread | None = None


def _check_ring(camera: _Camera, slots: int, slot_bytes: int) -> None:
    """Raise ValueError for a ring that is larger than the camera's may be."""
    if not (1 <= slots <= camera.settings["slots"] and 0 < slots * slot_bytes <= LIMITS.ring_bytes):
        raise ValueError(f"{slots} slots of {slot_bytes} bytes")


class IngestPool:
    """N processes that subscribe to cameras and hand their images over in shared memory.

    Images that they decode on a GPU come in its memory (CUDA IPC), where it is that of the
    detectors; else through the host's, and a line in the log says why.

    A process that ends, or that gives no sign of life, is replaced by a new one with its cameras:
    at once the first time, then after longer and longer times, for ever. So is one to which the
    middleware brings nothing, DEAF_RESTARTS times.

    Args:
        count: how many.
        name: prefix of their nodes' names.
        devices: where the images go; with one of CUDA the rings are page-locked.
        namespace: of their nodes.
        enclave: where SROS2 looks for their keys and permissions.

    Raises:
        OSError, RuntimeError: the system has no room for one, or for its thread; those before it
            have ended.
    """

    def __init__(
        self,
        count: int,
        name: str,
        *,
        devices: Sequence[Device] = (),
        namespace: str = "/",
        enclave: str = "/ingest",
    ) -> None:
        self._lock = threading.Lock()
        self._gpus = sorted({device.cuda_index for device in devices if device.is_cuda})
        self._devices = devices
        self._identity = (namespace, enclave)
        self._closing = threading.Event()
        self._generation = 0
        self._members: list[_Member] = []
        try:
            for index in range(count):
                member = _Member(f"{name}_ingest_{index}")
                self._start(member)
                self._members.append(member)
                thread = threading.Thread(
                    target=self._watch, args=(member,), name=member.name, daemon=True
                )
                thread.start()
                member.thread = thread
        except BaseException:
            self.close()
            raise

    @property
    def count(self) -> int:
        """Processes that there should be."""
        return len(self._members)

    @property
    def faults(self) -> dict[str, str]:
        """Name of each process that is down -> why."""
        return {member.name: member.fault for member in self._members if member.fault}

    def fault(self, camera: str) -> str:
        """Return why a camera gets no images, "" if it may."""
        with self._lock:
            for member in self._members:
                if camera in member.cameras:
                    down = f"{member.name} {member.fault}" if member.fault else ""
                    return down or member.cameras[camera].fault
        return ""

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
        """
        settings = {"topic": asdict(topic), "slots": queue_depth + EXTRA_SLOTS}
        with self._lock:
            member = min(self._members, key=lambda each: len(each.cameras))
            member.cameras[camera] = _Camera(sink, settings)
            self._send_subscribe(member, camera)

    def unsubscribe(self, camera: str) -> None:
        """End a camera's subscription; images of it that are under way are not handed over."""
        with self._lock:
            for member in self._members:
                if member.cameras.pop(camera, None) is not None:
                    member.channel.send("unsubscribe", camera=camera, wait=False)

    def close(self, timeout: float = END_LIMIT) -> bool:
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
            if member.thread is not None:
                member.thread.join(1.0)  # the channel has ended: it is on its way
            member.lent.clear()
        return ended

    def _command(self, member: _Member, fd: int) -> list[str]:
        module = "yolox_trt.ros.ingest.process"
        return module_command(module, member.name, *self._identity, fd)

    def _start(self, member: _Member) -> None:
        """Start a process; raises OSError where the system has no room for it."""
        channel, other = IngestChannel.pair()
        fd = other.fileno()
        try:
            member.process = subprocess.Popen(
                self._command(member, fd),
                pass_fds=[fd],
                env=transport_environment(),
                stdin=subprocess.DEVNULL,
                # Ctrl-C and a signal to the process group are the executor's process's: it ends
                # this one in order, and would take its death for a fault.
                start_new_session=True,
            )
        except BaseException:
            channel.close()
            raise
        finally:
            other.close()
        member.channel, member.started = channel, time.monotonic()
        for camera in member.cameras:
            self._send_subscribe(member, camera)

    def _send_subscribe(self, member: _Member, name: str) -> None:
        # Generations go up over all subscriptions, so that a late frame of a former one, or of a
        # process that was replaced, never finds a ring of another.
        self._generation += 1 << 16
        camera = member.cameras[name]
        camera.generation, camera.asked_at = self._generation, time.monotonic()
        settings = camera.settings | {"generation": self._generation}
        # Without waiting: what a process does not take is sent again when it gives a sign of life.
        member.channel.send("subscribe", camera=name, wait=False, **settings)

    def _watch(self, member: _Member) -> None:
        """Listen to a process, and to those that take its place."""
        while not self._closing.is_set():
            try:
                self._listen(member)
            except Exception as error:  # whatever a process says, it is watched
                _LOGGER.exception("%s could not be understood", member.name)
                member.fault = f"could not be understood ({error_text(error)})"
                member.process.kill()
            if not self._closing.is_set():
                self._replace(member)

    def _listen(self, member: _Member) -> None:
        """Take a process's messages until it ends; end one that is silent."""
        silent, limit = 0.0, START_LIMIT
        while True:
            # Time is counted in waits: one in which this process itself was stopped is no silence.
            if not member.channel.poll(POLL):
                silent += POLL
                if silent >= limit:
                    member.fault = f"has given no sign of life for {silent:g} s"
                    member.process.kill()
                continue
            silent, limit = 0.0, SILENCE_LIMIT
            try:
                received = member.channel.receive()
            except ValueError as error:  # whose image it was is not known
                _LOGGER.error("%s: %s", member.name, error_text(error))
                self._renew(member, *member.cameras)
                continue
            if received is None:
                return
            member.fault = ""
            message, fd = received
            name = message.get("camera", "")
            try:
                self._handle(member, name, message, fd)
            except Exception as error:
                # A traceback tells of a mistake here. What the process said, it is not; and who
                # keeps a traceback keeps the ring, too.
                expected = isinstance(error, (ValueError, OSError, YoloxTrtError))
                _LOGGER.error(
                    "image of camera %s was lost: %s",
                    *(clean_text(name), error_text(error)),
                    exc_info=not expected,
                )
                self._renew(member, name)
            finally:
                if fd is not None:
                    os.close(fd)
            if member.fault:  # it was ended: what else it says does not count
                return

    def _handle(self, member: _Member, name: str, message: dict[str, Any], fd: int | None) -> None:
        check_message(message)
        kind = message["kind"]
        if kind == "device_ring_closed":
            member.lent.pop(message["generation"], None)
            if message["reason"]:
                self._say_no_device_ring(name, message["reason"])
            return
        if kind == "alive":
            self._tell_again(member, message["cameras"])
            return
        if kind == "deaf":
            member.deaf += 1
            if member.deaf <= DEAF_RESTARTS:
                member.fault = "has received nothing of cameras that publish"
                member.process.kill()
            return
        with self._lock:
            camera = member.cameras.get(name)
        if camera is None:
            return
        if kind in ("frame", "refused", "full", "lost"):
            member.deaf = 0
        if kind == "ring":
            if message["generation"] <= camera.generation:
                return  # of a former subscription
            _check_ring(camera, message["slots"], message["slot_bytes"])
            if fd is None:
                raise ValueError("a ring without its memory")
            ring = FrameRing(message["slots"], message["slot_bytes"], fd)
            camera.ring = message["generation"], ring
            if self._gpus and (unpin := pin(ring.images, self._gpus[0])) is not None:
                # Views of its slots keep a ring alive: it is released when nobody reads it.
                weakref.finalize(ring, unpin).atexit = False
        elif kind == "device_ring_wanted":
            self._lend(member, name, camera, message)
        elif kind == "frame":
            frame = self._frame(member, name, camera, message)
            if frame is None:
                if message["generation"] > camera.generation:
                    self._renew(member, name)  # its ring could not be mapped
                return
            camera.sink.on_frame(frame)
        elif kind == "refused":
            camera.sink.on_refused(clean_text(message["reason"]))
        elif kind == "full":
            camera.sink.on_full()
        elif kind == "lost":
            camera.sink.on_lost(message["count"])
        elif kind == "failed":
            camera.fault = clean_text(message["reason"])

    @staticmethod
    def _frame(
        member: _Member, name: str, camera: _Camera, message: dict[str, Any]
    ) -> Frame | None:
        """Return a message's image; None if its ring is not the camera's."""
        generation, slot = message["generation"], message["slot"]
        fields = frame_fields(message["frame"]) | {"stream_id": name}
        if camera.device_ring is not None and camera.device_ring[0] == generation:
            lent = member.lent.get(generation)
            return None if lent is None else lent.frame(slot, fields)
        if camera.ring is None or camera.ring[0] != generation:
            return None
        data = camera.ring[1].view(slot, message["size"])
        frame = Frame(data=data, **fields)
        # A GPU must not read past the slot.
        layout = ENCODINGS[frame.encoding]
        check_buffer(layout, frame.height, frame.width, frame.step, data.size)
        return frame

    def _lend(self, member: _Member, name: str, camera: _Camera, message: dict[str, Any]) -> None:
        """Give a process memory of a GPU for a camera's images, or tell it that there is none."""
        generation, slots = message["generation"], message["slots"]
        if generation <= camera.generation or (
            camera.device_ring is not None and camera.device_ring[1]() is not None
        ):
            return  # of a former subscription, or the former one is in use: it asks again
        try:
            device = self._gpu_of_images(message["bus_id"])
            _check_ring(camera, slots, message["slot_bytes"])
            ring = DeviceRing(slots, message["slot_bytes"], device)
        except Exception as error:
            self._say_no_device_ring(name, error_text(error))
            member.channel.send("device_ring", camera=name, wait=False, generation=generation)
            return
        camera.device_ring = generation, weakref.ref(ring)
        member.lent[generation] = ring
        if not member.channel.send(
            *("device_ring", ring.fd),
            camera=name,
            wait=False,
            generation=generation,
            **ring.fields,
        ):
            del member.lent[generation]
        ring.close_fd()

    def _gpu_of_images(self, bus_id: str) -> int:
        """Return the CUDA device ordinal of the GPU that images lie on.

        Raises:
            DeviceError: a detector is on another one, or none is on a GPU.
        """
        device = device_at(bus_id)
        if wrong := [each for each in self._devices if each.is_cuda and each.cuda_index != device]:
            raise DeviceError(
                f"images on gpu:{device} for a detector on {wrong[0]}",
                expected="one GPU for decoders and detectors",
                fix="set the parameter `devices` to one GPU, or `decoder` to cpu",
            )
        if not self._gpus:
            raise DeviceError("images on a GPU, and no detector on one")
        return device

    @staticmethod
    def _say_no_device_ring(name: str, reason: str) -> None:
        _LOGGER.warning(
            "camera %s: images that are decoded on the GPU come through host memory: %s",
            *(name, reason),
        )

    def _tell_again(self, member: _Member, cameras: dict[str, int]) -> None:
        """Tell a process, which is subscribed to name -> generation, what it lacks."""
        with self._lock:
            others = [
                n for n, camera in member.cameras.items() if cameras.get(n) != camera.generation
            ]
            for name in member.cameras.keys() - others:
                member.cameras[name].fault = ""
            for name in cameras.keys() - member.cameras.keys():
                member.channel.send("unsubscribe", camera=name, wait=False)
        self._renew(member, *others)

    def _renew(self, member: _Member, *names: str) -> None:
        """Subscribe cameras anew, now and then: with a new ring, no slot of which is taken."""
        with self._lock:
            for name in names:
                camera = member.cameras.get(name)
                if camera is not None and time.monotonic() - camera.asked_at >= RETRY:
                    self._send_subscribe(member, name)

    def _replace(self, member: _Member) -> None:
        """Start a process anew that has ended, as soon and as often as it takes."""
        try:
            status = member.process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:  # it has closed its end, and hangs
            member.process.kill()
            status = member.process.wait()
        member.lent.clear()  # frames in its rings keep them
        member.channel.close()
        if time.monotonic() - member.started > HEALTHY_AFTER:
            member.failures = 0
        why = member.fault or f"ended with status {status}"
        while True:
            member.failures += 1
            delay = 0.0
            if member.failures > 1:
                delay = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(member.failures - 2, 30))
            member.fault = why
            _LOGGER.error(
                "%s %s; it is started again%s",
                *(member.name, why, f" in {delay:g} s" if delay else ""),
            )
            self._closing.wait(delay)
            with self._lock:
                if self._closing.is_set():
                    return
                try:
                    self._start(member)
                except OSError as error:
                    why = f"cannot be started: {error}"
                    continue
                member.restarts += 1
                return
