# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Images, a video or a camera device as a ROS topic."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing

import cv2
import numpy as np
import numpy.typing as npt

from yolox_trt.core.images import ImageSource, open_images
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.evaluation.pacing import Pacer
from yolox_trt.ros.tools.image_publisher import ImagePublisher
from yolox_trt.ros.tools.options import PublishOptions
from yolox_trt.ros.tools.result_window import ResultWindow
from yolox_trt.ros.tools.session import plain_node, ros_node
from yolox_trt.ros.tools.source_node import (
    DISCOVERY,
    rounds,
    source_qos,
    wait_for_subscribers,
    wait_until_delivered,
)


def run_publish(
    options: PublishOptions, *, say: Callable[[str], None], on_progress: Progress = no_progress
) -> int:
    """Publish the source's pictures.

    Args:
        options: the source and its topic.
        say: takes a line.
        on_progress: told of each picture.

    Returns:
        0, also after Ctrl-C; 1 if no picture was published, or one could not be read.

    Raises:
        ConfigurationError: a source that cannot be opened.
    """
    # ROS nodes need different names, and there is a process for each camera.
    node_name = plain_node(f"yolox_trt_publish_{os.getpid()}")
    with (
        closing(open_images(options.source)) as source,
        ros_node(node_name, ros_args=options.ros_args) as (node, executor),
    ):
        publisher = ImagePublisher(
            node,
            options.topic,
            frame_id=options.frame_id,
            qos=source_qos(options.reliable),
            compressed=options.compressed,
        )
        window = ResultWindow(node, executor, [publisher.topic], options)
        timeout = max(DISCOVERY, options.wait or 0.0)
        if not wait_for_subscribers(executor, [publisher.publisher], timeout):
            say(f"nobody subscribes to {publisher.topic} yet")
        rate = (options.rate or source.rate) * options.speed
        pacer = None if source.live or options.max else Pacer(rate)
        title, total = f"{options.source} -> {publisher.topic}", len(source) * options.loop or None
        try:
            for image in _pictures(source, options, lambda: publisher.published):
                window.wait(publisher.topic)
                if pacer is not None:
                    pacer.wait()
                window.sent(publisher.topic, publisher.publish(image))
                on_progress(title, publisher.published, total)
                executor.spin_once(timeout_sec=0.0)
            window.drain()
            wait_until_delivered([publisher.publisher])
        except KeyboardInterrupt:
            pass
        late = pacer.late if pacer else 0
        say(
            f"{publisher.published} published on {publisher.topic}"
            + (f", {late} late" if late else "")
            + window.summary
            + (f", {source.refused} images could not be read" if source.refused else "")
        )
        return 0 if publisher.published and not source.refused else 1


def _pictures(
    source: ImageSource, options: PublishOptions, published: Callable[[], int]
) -> Iterator[npt.NDArray[np.uint8]]:
    for _ in rounds(options.loop, published):
        for frame in source:
            if options.size is None:
                yield frame.rows
            else:
                yield np.asarray(cv2.resize(frame.rows, options.size[::-1]), np.uint8)
