# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The ingest process: receives some cameras' images and writes them into shared memory.

Started by IngestPool with one end of an IngestChannel as a descriptor; ends when the other end
goes.
"""

from __future__ import annotations

import argparse
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image

from yolox_trt.core.errors import FrameError
from yolox_trt.core.frame import Frame
from yolox_trt.ros.image_qos import image_qos
from yolox_trt.ros.ingest.channel import IngestChannel
from yolox_trt.ros.ingest.frame_ring import EXTRA_SLOTS, FrameRing
from yolox_trt.ros.messages.images import frame_from_compressed, frame_from_image
from yolox_trt.ros.middleware import apply_malloc_settings
from yolox_trt.ros.rclpy_versions import NoEventHandlers, create_spinner
from yolox_trt.ros.subscription_events import POLL_PERIOD, SubscriptionEvents

#: Longest time until a command is seen, in seconds.
POLL = 0.02

#: Most bytes of one camera's ring: with CUDA all of it is page-locked.
LARGEST_RING = 1 << 30


class IngestNode(NoEventHandlers, Node):
    """The process's node."""


class CameraIntake:
    """One camera's subscription and its ring.

    Args:
        node: the process's node.
        channel: the way to the executor's process.
        settings: the command `subscribe`: camera, topic, compressed, reliable, depth, slots.
    """

    def __init__(self, node: Node, channel: IngestChannel, settings: dict[str, Any]) -> None:
        self._node = node
        self._channel = channel
        self._camera = settings["camera"]
        self._slots = settings["slots"]
        self._compressed = settings["compressed"]
        self._ring: FrameRing | None = None
        self._generation = settings["generation"]
        self._subscription = node.create_subscription(
            CompressedImage if self._compressed else Image,
            settings["topic"],
            self._on_image,
            image_qos(settings["reliable"], settings["depth"]),
        )
        try:
            self._events = SubscriptionEvents(
                self._subscription, self._on_lost, node.get_logger().warning
            )
        except Exception:
            node.destroy_subscription(self._subscription)
            raise

    def _on_image(self, message: Any) -> None:
        received_ns = time.monotonic_ns()
        convert: Any = frame_from_compressed if self._compressed else frame_from_image
        try:
            frame: Frame = convert(message)
        except Exception as error:
            reason = (
                str(error) if isinstance(error, FrameError) else f"{type(error).__name__}: {error}"
            )
            self._channel.send("refused", camera=self._camera, reason=reason[:2000])
            return
        ring = self._ring
        if ring is None or frame.data.size > ring.slot_bytes:
            ring = self._make_ring(frame.data.size)
        slot = ring.write(frame.data)
        if slot is None:
            self._channel.send("full", camera=self._camera)
            return
        stamp = message.header.stamp
        self._channel.send(
            "frame",
            camera=self._camera,
            generation=self._generation,
            slot=slot,
            size=frame.data.size,
            height=frame.height,
            width=frame.width,
            encoding=frame.encoding,
            step=frame.step,
            sec=stamp.sec,
            nanosec=stamp.nanosec,
            frame_id=frame.frame_id,
            received_ns=received_ns,
        )

    def _make_ring(self, size: int) -> FrameRing:
        """Make a ring for images of this size; the former one lives on in its readers."""
        self._generation += 1
        slots = max(1, min(self._slots, LARGEST_RING // size))
        if slots < self._slots:
            self._node.get_logger().warning(
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

    def _on_lost(self, count: int) -> None:
        self._channel.send("lost", camera=self._camera, count=count)

    def poll_events(self) -> None:
        """Count the images that the middleware has lost; to be called now and then."""
        self._events.poll()

    def close(self) -> None:
        """End the subscription."""
        self._events.close()
        self._node.destroy_subscription(self._subscription)


def _obey(
    command: dict[str, Any],
    node: Node,
    channel: IngestChannel,
    intakes: dict[str, CameraIntake],
) -> None:
    """Subscribe or unsubscribe, as the executor's process says."""
    former = intakes.pop(command["camera"], None)
    if former is not None:
        former.close()
    if command["kind"] == "subscribe":
        intakes[command["camera"]] = CameraIntake(node, channel, command)


def main(args: Sequence[str] | None = None) -> int:
    """Run until the executor's process closes its end."""
    parser = argparse.ArgumentParser(prog="python -m yolox_trt.ros.ingest.process")
    parser.add_argument("name", help="name of the node")
    parser.add_argument("fd", type=int, help="descriptor of the channel")
    options = parser.parse_args(args)
    apply_malloc_settings()
    # What ends this process is the end of the channel, in order or with the executor's process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = IngestChannel(socket.socket(fileno=options.fd))
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = IngestNode(options.name, start_parameter_services=False, use_global_arguments=False)
    spinner = create_spinner()
    spinner.add_node(node)
    intakes: dict[str, CameraIntake] = {}
    polled = time.monotonic()
    try:
        while True:
            # A fault of one camera must not take the others of this process along, nor keep it
            # from hearing that the executor's process has ended.
            try:
                spinner.spin_once(timeout_sec=POLL)
                if time.monotonic() - polled >= POLL_PERIOD:
                    polled = time.monotonic()
                    for intake in intakes.values():
                        intake.poll_events()
            except Exception:
                node.get_logger().error(traceback.format_exc(), throttle_duration_sec=1.0)
                time.sleep(POLL)
            if not select.select([channel], [], [], 0.0)[0]:
                continue
            received = channel.receive()
            if received is None:
                break
            command = received[0]
            try:
                _obey(command, node, channel, intakes)
            except Exception as error:
                node.get_logger().error(traceback.format_exc())
                reason = f"{command['kind']} failed: {type(error).__name__}: {error}"
                channel.send("refused", camera=command["camera"], reason=reason[:2000])
    finally:
        for intake in intakes.values():
            intake.close()
        channel.close()
        spinner.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
