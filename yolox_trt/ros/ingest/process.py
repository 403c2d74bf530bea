# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The ingest process: receives some cameras' images and writes them into shared memory.

Started by IngestPool with one end of an IngestChannel as a descriptor; ends when the other end
goes.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

import rclpy
from rclpy.node import Node

from yolox_trt.core.memory import apply_malloc_settings
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.ingest.channel import IngestChannel
from yolox_trt.ros.ingest.image_receiver import ImageReceiver
from yolox_trt.ros.ingest.image_topic import ImageTopic
from yolox_trt.ros.ingest.shared_memory_sink import SharedMemorySink
from yolox_trt.ros.rclpy_versions import NoEventHandlers, create_spinner, init_rclpy

#: Longest time until a command is seen, in seconds.
POLL = 0.02

#: Seconds between two signs of life.
BEAT = 0.5

#: Seconds after which a process that has never heard anything, of cameras that publish, says so.
DEAF_AFTER = 10.0


class IngestNode(NoEventHandlers, Node):
    """The process's node."""


class _Camera(NamedTuple):
    """One camera's subscription, where its images go, and the number of the command."""

    receiver: ImageReceiver
    sink: SharedMemorySink
    generation: int

    def close(self) -> None:
        self.receiver.close()
        self.sink.close()


class _Hearing:
    """Notices that the middleware brings nothing to this process.

    Where a process is killed and the next one takes its place, Fast DDS may fail to open the new
    one's port in shared memory ("Failed init_port": seen now and then on a busy machine). Its
    topics are found, nothing ever arrives, and nobody is told; another process hears.
    """

    def __init__(self) -> None:
        self._heard = False
        self._since = time.monotonic()

    def is_deaf(self, receivers: Sequence[ImageReceiver]) -> bool:
        """Return whether, for DEAF_AFTER seconds, nothing has come though somebody publishes."""
        self._heard = self._heard or any(each.heard for each in receivers)
        now = time.monotonic()
        if self._heard or not any(each.has_publishers() for each in receivers):
            self._since = now
        if now - self._since < DEAF_AFTER:
            return False
        self._since = now
        return True


def _obey(
    node: Node,
    channel: IngestChannel,
    cameras: dict[str, _Camera],
    fd: int | None,
    *,
    kind: str,
    camera: str,
    topic: dict[str, Any] | None = None,
    generation: int = 0,
    **ring: Any,
) -> None:
    """Subscribe, or unsubscribe without a topic; tell what has become of it."""
    try:
        if kind == "device_ring":
            if camera in cameras:
                cameras[camera].sink.on_device_ring(fd, generation, **ring)
            elif fd is not None:  # unsubscribed in between
                channel.send("device_ring_closed", camera=camera, generation=generation, reason="")
            return
        if former := cameras.pop(camera, None):
            former.close()
        if topic is not None:
            warn = node.get_logger().warning
            sink = SharedMemorySink(camera, channel, warn, generation, **ring)
            receiver = ImageReceiver(node, camera, ImageTopic(**topic), sink)
            cameras[camera] = _Camera(receiver, sink, generation)
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
    cameras: dict[str, _Camera] = {}
    hearing, next_beat = _Hearing(), 0.0
    try:
        while True:
            # A fault of one camera must not take the others of this process along, nor keep it
            # from hearing that the executor's process has ended. One that goes on is no life.
            try:
                spinner.spin_once(timeout_sec=POLL)
                for each in cameras.values():
                    each.receiver.poll_events()
                if time.monotonic() >= next_beat:
                    next_beat = time.monotonic() + BEAT
                    told = {name: each.generation for name, each in cameras.items()}
                    channel.send("alive", cameras=told)
                    if hearing.is_deaf([each.receiver for each in cameras.values()]):
                        channel.send("deaf")
            except Exception:
                node.get_logger().error(traceback.format_exc(), throttle_duration_sec=1.0)
                time.sleep(POLL)
            while channel.poll(0.0):
                try:
                    received = channel.receive()
                except ValueError as error:
                    node.get_logger().error(f"damaged command: {error_text(error)}")
                    continue
                if received is None:
                    return 0
                command, descriptor = received
                try:
                    _obey(node, channel, cameras, descriptor, **command)
                finally:
                    if descriptor is not None:
                        os.close(descriptor)
    finally:
        for each in cameras.values():
            each.close()
        channel.close()
        spinner.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
