# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""SharedMemorySink: hands one camera's images to the executor's process.

Images in host memory go into a FrameRing, which is made here. For images in a GPU's memory the
executor's process is asked for a DeviceRing; until it comes, and where it cannot be, they go
through the FrameRing, too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.core.frame import Frame
from yolox_trt.core.limits import LIMITS, clean_text
from yolox_trt.detectors.device_memory import bus_id
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.ingest.channel import IngestChannel
from yolox_trt.ros.ingest.device_ring import DeviceRingWriter
from yolox_trt.ros.ingest.frame_ring import EXTRA_SLOTS, FrameRing, whole_pages
from yolox_trt.ros.ingest.image_topic import SMALL_IMAGES
from yolox_trt.ros.ingest.message_fields import FRAME_FIELDS

#: Seconds between two questions for a DeviceRing.
ASK_AGAIN = 1.0


class SharedMemorySink:
    """Where one camera's images go: into its ring, and word of them into the channel.

    Args:
        camera: its name.
        channel: the way to the executor's process.
        warn: called with a line about a ring that is smaller than was asked for.
        generation: number of the subscription; goes up with each ring.
        slots: slots of a ring at most.
    """

    def __init__(
        self,
        camera: str,
        channel: IngestChannel,
        warn: Callable[[str], object],
        generation: int = 0,
        slots: int = 1,
    ) -> None:
        self._camera = camera
        self._channel = channel
        self._generation = generation
        self._slots = slots
        self._warn = warn
        self._ring: FrameRing | None = None
        self._ring_generation = generation
        # Rings that were replaced while the executor's process still used slots of them.
        self._former: list[FrameRing] = []
        self._small = 0
        # The answer to a question for a DeviceRing comes in another thread than the images.
        self._lock = threading.Lock()
        self._device_ring: DeviceRingWriter | None = None
        self._device_generation = 0
        self._asked = 0.0
        self._no_device_ring = False  # there is no use in asking

    def on_frame(self, frame: Frame) -> None:
        """Write an image into a ring, and send its description."""
        try:
            if frame.device_array is None or not self._hand_over_on_device(frame):
                self._hand_over(frame.on_host())
        except Exception as error:  # no memory, no descriptor: the next image may have more luck
            self.on_refused(error_text(error))

    def on_refused(self, reason: str) -> None:
        """Tell of an image that could not be read."""
        self._channel.send("refused", camera=self._camera, reason=clean_text(reason))

    def on_full(self) -> None:
        """Tell of an image that found no room."""
        self._channel.send("full", camera=self._camera)

    def on_lost(self, count: int) -> None:
        """Tell of images that the middleware lost."""
        self._channel.send("lost", camera=self._camera, count=count)

    def _hand_over(self, frame: Frame) -> None:
        size = frame.data.size
        if size > LIMITS.ring_bytes:
            self.on_refused(
                f"an image of {size} bytes; expected {LIMITS.ring_bytes >> 20} MB at most with "
                "ingest processes; fix: set the parameter `ingest_processes` to 0"
            )
            return
        ring = self._ring_for(size)
        slot = None if ring is None else ring.write(frame.data)
        if ring is None or slot is None:
            self.on_full()
            return
        fields = {name: getattr(frame, name) for name in FRAME_FIELDS}
        self._tell(ring, self._ring_generation, slot, size, fields)

    def _hand_over_on_device(self, frame: Frame) -> bool:
        """Write an image into the DeviceRing; return False if it has to go through host memory."""
        array = frame.device_array
        size = int(array.nbytes)
        with self._lock:
            ring = self._device_ring
            # One twice as large as need be makes way: GPUs have little memory.
            if ring is None or not size <= ring.slot_bytes < 2 * whole_pages(size):
                self._ask_for_device_ring(size, array)
                return False
            try:
                slot = ring.write(array)
            except YoloxTrtError as error:
                self._close_device_ring(error_text(error))
                return False
            if slot is None:
                self.on_full()
                return True
            fields = {name: getattr(frame, name) for name in FRAME_FIELDS}
            fields["step"] = size // array.shape[0]  # padding is not copied
            self._tell(ring, self._device_generation, slot, size, fields)
        return True

    def _tell(
        self,
        ring: FrameRing | DeviceRingWriter,
        generation: int,
        slot: int,
        size: int,
        fields: dict[str, Any],
    ) -> None:
        sent = False
        try:
            sent = self._channel.send(
                "frame",
                camera=self._camera,
                generation=generation,
                slot=slot,
                size=size,
                frame=fields,
            )
        finally:
            if not sent:
                ring.release(slot)

    def _ask_for_device_ring(self, size: int, array: Any) -> None:
        now = time.monotonic()
        slots = min(self._slots, LIMITS.ring_bytes // whole_pages(size))
        if self._no_device_ring or now < self._asked + ASK_AGAIN or slots < 1:
            return
        self._asked = now
        self._close_device_ring()
        self._generation += 1
        self._device_generation = self._generation
        self._channel.send(
            "device_ring_wanted",
            camera=self._camera,
            generation=self._device_generation,
            slots=slots,
            slot_bytes=whole_pages(size),
            bus_id=bus_id(array.device.id),
        )

    def on_device_ring(self, fd: int | None, generation: int, **fields: Any) -> None:
        """Take the answer to a question for a DeviceRing.

        Args:
            fd: descriptor of its flags, which stays the caller's; None where there can be none.
            generation: number of the question.
            fields: of the ring.
        """
        with self._lock:
            if fd is None:
                self._no_device_ring = True
            elif generation != self._device_generation or self._device_ring is not None:
                self._send_closed(generation)
            else:
                try:
                    self._device_ring = DeviceRingWriter(fd, **fields)
                except Exception as error:
                    self._no_device_ring = True
                    self._send_closed(generation, error_text(error))

    def _close_device_ring(self, reason: str = "") -> None:
        """Let go of the DeviceRing; with a reason for good."""
        ring, self._device_ring = self._device_ring, None
        self._no_device_ring = self._no_device_ring or bool(reason)
        if ring is not None:
            ring.close()
            self._send_closed(self._device_generation, reason)

    def _send_closed(self, generation: int, reason: str = "") -> None:
        self._channel.send(
            "device_ring_closed", camera=self._camera, generation=generation, reason=reason
        )

    def close(self) -> None:
        """Let go of the DeviceRing; no image comes any more."""
        with self._lock:
            self._no_device_ring = True
            self._close_device_ring()
            self._device_generation = -1  # an answer that is under way comes too late

    def _ring_for(self, size: int) -> FrameRing | None:
        """Return the ring for an image of this size; None while former ones are in the way."""
        ring = self._ring
        self._former = [each for each in self._former if each.taken]
        if ring is not None:
            self._small = self._small + 1 if 2 * size < ring.slot_bytes else 0
            if size <= ring.slot_bytes and self._small < SMALL_IMAGES:
                return ring
        slot_bytes = whole_pages(size)
        slots = max(1, min(self._slots, LIMITS.ring_bytes // slot_bytes))
        former = [*self._former, ring] if ring is not None and ring.taken else self._former
        in_use = sum(each.slots * each.slot_bytes for each in former)
        if in_use + slots * slot_bytes > LIMITS.ring_bytes:
            return ring if ring is not None and size <= ring.slot_bytes else None
        self._former, self._small = former, 0
        if slots < self._slots:
            self._warn(
                f"camera '{self._camera}': {self._slots} images of {size} bytes in shared memory; "
                f"expected {LIMITS.ring_bytes >> 20} MB at most, and {slots} are kept: while all "
                "are in use, the newest image is lost; fix: set the "
                f"camera's parameter `queue_depth` to {max(1, slots - EXTRA_SLOTS)} at most"
            )
        self._ring = FrameRing(slots, size)
        self._generation += 1
        self._ring_generation = self._generation
        self._channel.send(
            "ring",
            fd=self._ring.fd,
            camera=self._camera,
            generation=self._generation,
            slots=slots,
            slot_bytes=self._ring.slot_bytes,
        )
        self._ring.close_fd()
        return self._ring
