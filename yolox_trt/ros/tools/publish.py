# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt publish`: images, a video or a camera device as a ROS topic."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console

from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.core.images import ImageSource, open_images
from yolox_trt.ros.nodes.parameter_values import check_topic
from yolox_trt.ros.tools.bag import detection_topics
from yolox_trt.ros.tools.image_publisher import ImagePublisher
from yolox_trt.ros.tools.pacer import Pacer
from yolox_trt.ros.tools.result_window import ResultWindow
from yolox_trt.ros.tools.source_node import (
    SourceNode,
    make_progress,
    source_qos,
    wait_for_subscribers,
    wait_until_delivered,
)


def run_publish(args: argparse.Namespace) -> int:
    """Publish the source's pictures; see `yolox_trt publish --help`.

    Returns:
        0, also after Ctrl-C; 1 if no picture was published.

    Raises:
        ConfigurationError: a source that cannot be opened, or a topic that ROS 2 does not take.
    """
    for topic in (args.topic, *args.results):
        check_topic(topic, fix="give another --topic or --results")
    source = open_images(args.source)
    console = Console(stderr=True)
    with SourceNode("yolox_trt_publish") as (node, executor):
        publisher = ImagePublisher(
            node,
            args.topic,
            frame_id=args.frame_id,
            qos=source_qos(args.reliable),
            compressed=args.compressed,
        )
        window = None
        if args.max:
            topic = (*args.results, detection_topics([publisher.topic])[publisher.topic])[0]
            window = ResultWindow(node, executor, {args.topic: topic}, depth=args.window)
            if not window.wait_for_consumer(args.wait):
                raise YoloxTrtError(
                    f"nobody publishes {topic}",
                    expected="a consumer, whose results set the pace with --max",
                    fix="start multi_camera first, or name its topic with --results",
                )
        if not wait_for_subscribers(executor, [publisher.publisher]):
            console.print(f"nobody subscribes to {publisher.topic} yet")
        rate = (args.rate or source.rate) * args.speed
        pacer = None if source.live or window else Pacer(rate)
        loops = itertools.count() if args.loop == 0 else range(args.loop)
        total = len(source) * args.loop or None
        try:
            with make_progress(console) as progress:
                task = progress.add_task(f"{args.source} -> {publisher.topic}", total=total)
                for image in _pictures(source, loops, args.size):
                    if window is not None:
                        window.wait(args.topic)
                    stamp = publisher.publish(image)
                    if window is not None:
                        window.sent(args.topic, stamp)
                    progress.advance(task)
                    executor.spin_once(timeout_sec=0.0)
                    if pacer is not None:
                        pacer.wait()
                if window is not None:
                    window.drain()
            wait_until_delivered([publisher.publisher])
        except KeyboardInterrupt:
            pass
        late = f", {pacer.late} late" if pacer is not None and pacer.late else ""
        missed = f", {window.results} results, {window.missed} missed" if window else ""
        skipped = f", {source.refused} files could not be read" if source.refused else ""
        console.print(
            f"{publisher.published} published on {publisher.topic}{late}{missed}{skipped}"
        )
        return 0 if publisher.published else 1


def _pictures(
    source: ImageSource, loops: Iterator[int] | range | itertools.count[int], size: list[int] | None
) -> Iterator[npt.NDArray[np.uint8]]:
    for _ in loops:
        for frame in source:
            yield np.asarray(cv2.resize(frame.rows, size), np.uint8) if size else frame.rows
