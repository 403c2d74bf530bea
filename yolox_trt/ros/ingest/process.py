# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The ingest process: receives some cameras' images and writes them into shared memory.

Started by IngestPool with one end of an IngestChannel as a descriptor; ends when the other end
goes.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.node import Node

from yolox_trt.core.frame import Frame
from yolox_trt.core.limits import LIMITS, clean_text
from yolox_trt.core.memory import apply_malloc_settings
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.ingest.channel import IngestChannel
from yolox_trt.ros.ingest.frame_ring import EXTRA_SLOTS, FrameRing, whole_pages
from yolox_trt.ros.ingest.image_receiver import SMALL_IMAGES, ImageReceiver, ImageTopic
from yolox_trt.ros.rclpy_versions import NoEventHandlers, create_spinner, init_rclpy

#: Longest time until a command is seen, in seconds.
POLL = 0.02

#: Seconds between two signs of life.
BEAT = 0.5

#: What the executor's process is told of a Frame beside its bytes.
FRAME_FIELDS = (
    *("height", "width", "encoding", "step"),
    *("stamp_ns", "frame_id", "stream_id", "received_ns", "reduction", "full_size"),
)


class IngestNode(NoEventHandlers, Node):
    """The process's node."""


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
        # Rings that were replaced while the executor's process still used slots of them.
        self._former: list[FrameRing] = []
        self._small = 0

    def on_frame(self, frame: Frame) -> None:
        """Write an image into the ring, and send its description."""
        try:
            self._hand_over(frame)
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
        sent = False
        try:
            sent = self._channel.send(
                "frame",
                camera=self._camera,
                generation=self._generation,
                slot=slot,
                size=size,
                frame={name: getattr(frame, name) for name in FRAME_FIELDS},
            )
        finally:
            if not sent:
                ring.release(slot)

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


def _obey(
    node: Node,
    channel: IngestChannel,
    receivers: dict[str, ImageReceiver],
    *,
    kind: str,
    camera: str,
    topic: dict[str, Any] | None = None,
    **ring: int,
) -> None:
    """Subscribe, or unsubscribe without a topic; tell what has become of it."""
    sink = SharedMemorySink(camera, channel, node.get_logger().warning, **ring)
    try:
        if former := receivers.pop(camera, None):
            former.close()
        if topic is not None:
            receivers[camera] = ImageReceiver(node, camera, ImageTopic(**topic), sink)
            channel.send("subscribed", camera=camera)
    except Exception as error:
        node.get_logger().error(traceback.format_exc())
        channel.send("failed", camera=camera, reason=f"{kind} failed: {error_text(error)}")


def main(args: Sequence[str] | None = None) -> int:
    """Run until the executor's process closes its end.

    Args:
        args: the node's name and namespace, the process's enclave (for SROS2), and the channel's
            descriptor; sys.argv[1:] by default.
    """
    name, namespace, enclave, fd = sys.argv[1:] if args is None else args
    apply_malloc_settings()
    # What ends this process is the end of the channel, in order or with the executor's process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = IngestChannel(socket.socket(fileno=int(fd)))
    init_rclpy(["--ros-args", "--enclave", enclave])
    node = IngestNode(
        name,
        namespace=namespace,
        start_parameter_services=False,
        use_global_arguments=False,
    )
    spinner = create_spinner()
    spinner.add_node(node)
    receivers: dict[str, ImageReceiver] = {}
    next_beat = 0.0
    try:
        while True:
            # A fault of one camera must not take the others of this process along, nor keep it
            # from hearing that the executor's process has ended. One that goes on is no life.
            try:
                spinner.spin_once(timeout_sec=POLL)
                for receiver in receivers.values():
                    receiver.poll_events()
                if time.monotonic() >= next_beat:
                    next_beat = time.monotonic() + BEAT
                    channel.send("alive")
            except Exception:
                node.get_logger().error(traceback.format_exc(), throttle_duration_sec=1.0)
                time.sleep(POLL)
            if not channel.poll(0.0):
                continue
            try:
                received = channel.receive()
            except ValueError as error:
                node.get_logger().error(f"damaged command: {error_text(error)}")
                continue
            if received is None:
                break
            _obey(node, channel, receivers, **received[0])
    finally:
        for receiver in receivers.values():
            receiver.close()
        channel.close()
        spinner.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
