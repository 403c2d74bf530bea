# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The ingest process: receives some cameras' images and writes them into shared memory.

Started by IngestPool with one end of an IngestChannel as a descriptor; ends when the other end
goes.
"""

from __future__ import annotations

import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from yolox_trt.core.frame import Frame
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.ingest.channel import IngestChannel
from yolox_trt.ros.ingest.frame_ring import EXTRA_SLOTS, FrameRing
from yolox_trt.ros.ingest.image_receiver import ImageReceiver, ImageTopic
from yolox_trt.ros.middleware import apply_malloc_settings
from yolox_trt.ros.rclpy_versions import NoEventHandlers, create_spinner

#: Longest time until a command is seen, in seconds.
POLL = 0.02

#: Most bytes of one camera's ring: with CUDA all of it is page-locked.
LARGEST_RING = 1 << 30

#: Characters of a reason that is told back; the channel's messages have a limit.
LONGEST_REASON = 2000

#: What the executor's process is told of a Frame beside its bytes.
FRAME_FIELDS = (
    *("height", "width", "encoding", "step"),
    *("stamp_ns", "frame_id", "stream_id", "received_ns"),
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

    def on_frame(self, frame: Frame) -> None:
        """Write an image into the ring, and send its description."""
        ring = self._ring
        if ring is None or frame.data.size > ring.slot_bytes:
            ring = self._make_ring(frame.data.size)
        slot = ring.write(frame.data)
        if slot is None:
            self.on_full()
            return
        self._channel.send(
            "frame",
            camera=self._camera,
            generation=self._generation,
            slot=slot,
            size=frame.data.size,
            frame={name: getattr(frame, name) for name in FRAME_FIELDS},
        )

    def on_refused(self, reason: str) -> None:
        """Tell of an image that could not be read."""
        self._channel.send("refused", camera=self._camera, reason=reason[:LONGEST_REASON])

    def on_full(self) -> None:
        """Tell of an image that found no room."""
        self._channel.send("full", camera=self._camera)

    def on_lost(self, count: int) -> None:
        """Tell of images that the middleware lost."""
        self._channel.send("lost", camera=self._camera, count=count)

    def _make_ring(self, size: int) -> FrameRing:
        """Make a ring for images of this size; the former one lives on in its readers."""
        self._generation += 1
        slots = max(1, min(self._slots, LARGEST_RING // size))
        if slots < self._slots:
            self._warn(
                f"camera '{self._camera}': {self._slots} images of {size} bytes in shared memory; "
                f"expected {LARGEST_RING >> 20} MB at most, and {slots} are kept: while all are in "
                "use, the newest image is lost; fix: set the "
                f"camera's parameter `queue_depth` to {max(1, slots - EXTRA_SLOTS)} at most"
            )
        self._ring = FrameRing(slots, size)
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
    """Subscribe, or unsubscribe without a topic; what fails is told back as a refused image."""
    sink = SharedMemorySink(camera, channel, node.get_logger().warning, **ring)
    try:
        if former := receivers.pop(camera, None):
            former.close()
        if topic is not None:
            receivers[camera] = ImageReceiver(node, camera, ImageTopic(**topic), sink)
    except Exception as error:
        node.get_logger().error(traceback.format_exc())
        sink.on_refused(f"{kind} failed: {error_text(error)}")


def main(args: Sequence[str] | None = None) -> int:
    """Run until the executor's process closes its end.

    Args:
        args: name of the node, and descriptor of the channel; sys.argv[1:] by default.
    """
    name, fd = sys.argv[1:] if args is None else args
    apply_malloc_settings()
    # What ends this process is the end of the channel, in order or with the executor's process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = IngestChannel(socket.socket(fileno=int(fd)))
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = IngestNode(name, start_parameter_services=False, use_global_arguments=False)
    spinner = create_spinner()
    spinner.add_node(node)
    receivers: dict[str, ImageReceiver] = {}
    try:
        while True:
            # A fault of one camera must not take the others of this process along, nor keep it
            # from hearing that the executor's process has ended.
            try:
                spinner.spin_once(timeout_sec=POLL)
                for receiver in receivers.values():
                    receiver.poll_events()
            except Exception:
                node.get_logger().error(traceback.format_exc(), throttle_duration_sec=1.0)
                time.sleep(POLL)
            if not select.select([channel], [], [], 0.0)[0]:
                continue
            received = channel.receive()
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
