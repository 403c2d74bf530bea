# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ImageReceiver: a subscription to a camera's topic; its messages become Frames here."""

from __future__ import annotations

import threading
import time
from typing import Any

from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from yolox_trt.core.device import Device
from yolox_trt.core.frame import Frame
from yolox_trt.core.limits import LIMITS, ImageLimits
from yolox_trt.core.memory import KEPT_BUFFER
from yolox_trt.detectors.decoders import DecoderOptions
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.ingest.image_topic import SMALL_IMAGES, ImageSink, ImageTopic
from yolox_trt.ros.latest_worker import LatestWorker
from yolox_trt.ros.messages.transports import TRANSPORTS, FrameReader
from yolox_trt.ros.rclpy_versions import WithMessageInfo
from yolox_trt.ros.subscription_events import SubscriptionEvents

#: Seconds without a subscription until its buffers have gone: rclpy ends one after it has called
#: what was due, and one that is made before that shares the buffers of the former one.
UNSUBSCRIBED = 0.2

#: Packets of a video that the middleware keeps at least: each one is needed for those after it.
VIDEO_DEPTH = 20


class ImageReceiver:
    """One camera's subscription, in this process or in an ingest process.

    Compressed images are decoded, and handed to `sink`, in a thread of their own, the newest first:
    the decoders work without Python's lock, and an image that takes long holds up its camera only.
    Of a video each packet is decoded in its turn; where too many wait, it goes on at the next
    keyframe. Raw images are handed over in rclpy's thread.

    Args:
        node: the node that subscribes.
        camera: name of the camera, and id of its Stream.
        topic: what to subscribe to.
        sink: where the Frames go.

    Attributes:
        heard: whether a message has come.
    """

    def __init__(self, node: Node, camera: str, topic: ImageTopic, sink: ImageSink) -> None:
        self._node = node
        self._camera = camera
        self._sink = sink
        self._closed = self.heard = False
        self._handing_over = threading.Lock()
        transport = TRANSPORTS[topic.transport]
        self._message_class = transport.message_class()
        self._reader = FrameReader(
            transport,
            stream_id=camera,
            limits=ImageLimits(max_megapixels=topic.max_megapixels),
            options=DecoderOptions(decoder=topic.decoder, jpeg_scale=topic.jpeg_scale),
            say=node.get_logger().warning,
            input_size=topic.input_size,
            device=Device("gpu", topic.gpu),
        )
        self._decoder: LatestWorker | None = None
        if transport.encoded:
            depth = LIMITS.video_packets if transport.video else 1
            self._decoder = LatestWorker(f"decode {camera}", depth)
        self._depth = max(topic.depth, VIDEO_DEPTH) if transport.video else topic.depth
        # Numbers of the message that came last and of the one that was decoded last: a thread each.
        self._arrived = self._decoded = 0
        self._topic = topic
        self._largest = self._small = 0
        self._subscription: Subscription | None = None
        self._events: SubscriptionEvents | None = None
        self._subscribe_at = 0.0
        self._subscribe()

    def _subscribe(self) -> None:
        topic = self._topic
        subscription = self._node.create_subscription(
            self._message_class,
            topic.name,
            WithMessageInfo(self._on_message),
            QoSProfile(
                depth=self._depth,
                reliability=ReliabilityPolicy[topic.reliability.upper()],
                history=HistoryPolicy[topic.history.upper()],
            ),
        )
        try:
            warn = self._node.get_logger().warning
            events = SubscriptionEvents(self._node, subscription, self._on_lost, warn)
        except BaseException:
            self._node.destroy_subscription(subscription)
            raise
        if self._events is not None:  # what was sent in between is lost
            events.numbers = self._events.numbers
        self._events, self._subscription = events, subscription

    def has_publishers(self) -> bool:
        """Return whether anybody publishes to the topic, as far as the graph tells."""
        return self._node.count_publishers(self._topic.name) > 0

    def poll_events(self) -> None:
        """Do what is due now and then; to be called often, and in none of the callbacks.

        The images that the middleware has lost are counted. The middleware keeps buffers as large
        as the largest image: after one that was large beyond the others, they are given back.
        """
        if self._subscription is None and time.monotonic() >= self._subscribe_at:
            self._subscribe()
        assert self._events is not None
        self._events.poll()
        if self._small >= SMALL_IMAGES:
            self._largest = self._small = 0
            self._unsubscribe()
            self._subscribe_at = time.monotonic() + UNSUBSCRIBED

    def close(self) -> None:
        """End the subscription; compressed images that still wait are given up.

        An image that is being decoded is not waited for, however long it takes: `sink` is told of
        no frame any more, but that this image was given up, when the decoder's thread ends.
        """
        with self._handing_over:
            self._closed = True
        self._unsubscribe()
        if self._decoder is not None:
            for _ in range(self._decoder.discard(self._camera)):
                self._sink.on_full()
            self._decoder.leave(self._let_go)

    def _let_go(self) -> None:
        self._reader.close()
        for _ in range(self._reader.given_up()):
            self._sink.on_full()

    def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None and self._events is not None:
            self._events.close()
            self._node.destroy_subscription(subscription)

    def _on_message(self, message: Any, info: dict[str, Any]) -> None:
        assert self._events is not None
        self.heard = True
        self._events.arrived(info)
        size = len(message.data)
        self._largest = max(self._largest, size)
        if self._largest > KEPT_BUFFER:
            self._small = self._small + 1 if 2 * size < self._largest else 0
        (self._take if self._decoder is None else self._decode_later)(message)

    def _on_lost(self, count: int) -> None:
        self._arrived += count
        self._sink.on_lost(count)

    def _take(self, message: Any, received_ns: int = 0, number: int = 0) -> None:
        if self._closed:  # the message was queued when the subscription ended
            if self._decoder is not None:
                self._sink.on_full()
            return
        reader, refusal = self._reader, ""
        try:
            gap, self._decoded = number - self._decoded > 1, number
            if gap:
                reader.lost()
            frames = reader.read(message, received_ns or time.monotonic_ns())
        except Exception as error:
            frames, refusal = (), error_text(error)
            self._sink.on_refused(refusal)
        for frame in frames:
            try:
                self._hand_over(frame)
            except Exception as error:  # one image's fault is not the end of its camera's thread
                self._sink.on_refused(error_text(error))
        if self._decoder is not None:
            for _ in range(reader.given_up()):
                self._sink.on_refused(refusal or "a packet before it was lost")

    def _hand_over(self, frame: Frame) -> None:
        with self._handing_over:
            if not self._closed:
                self._sink.on_frame(frame)
                return
        self._sink.on_full()

    def _decode_later(self, message: Any) -> None:
        assert self._decoder is not None
        if self._closed:
            return
        self._arrived += 1
        work = self._take, message, time.monotonic_ns(), self._arrived
        try:
            replaced = self._decoder.offer(self._camera, *work)
        except RuntimeError as error:  # no room for the thread
            self._sink.on_refused(error_text(error))
            return
        for _ in range(replaced):
            self._sink.on_full()
