# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A bag through the real multi_camera process, and its results beside the images' stamps."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from vision_msgs.msg import Detection2DArray

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import options_of
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.evaluation.regression import Found
from yolox_trt.ros.messages.images import stamp_to_ns
from yolox_trt.ros.messages.transports import BY_TYPE, TRANSPORTS, transport_of_topic
from yolox_trt.ros.middleware import transport_environment
from yolox_trt.ros.tools.bag import detection_topics, open_reader
from yolox_trt.ros.tools.child_process import ChildProcesses
from yolox_trt.ros.tools.launch_arguments import (
    EXECUTOR_NODE,
    argument_values,
    parameters_of,
    process_settings,
)
from yolox_trt.ros.tools.options import RegressOptions, ReplayOptions
from yolox_trt.ros.tools.replay import BagPlayer
from yolox_trt.ros.tools.session import ResultListener, private_domain, ros_node
from yolox_trt.ros.tools.source_node import wait_for_subscribers

#: Seconds that everything may take to start; engines may have to be built.
START_TIMEOUT = 600.0
#: What would leave images out, which here wait for one another.
_LOSSLESS = {"qos_reliability": "reliable", "stale_after": 0.0, "max_rate": 0.0}
_NAMED = options_of(RegressOptions)


def run_regress(
    options: RegressOptions, *, say: Callable[[str], None], on_progress: Progress = no_progress
) -> dict[str, dict[int, list[Found]]]:
    """Replay the images of a bag; return camera -> stamp in nanoseconds -> detections.

    Args:
        options: the bag, and what detects in it.
        say: takes a line on what is left out.
        on_progress: told of each image.

    Raises:
        ConfigurationError: no bag, no images of the cameras, or a bad configuration.
        YoloxTrtError: the process ended.
    """
    os.environ.update(private_domain(transport_environment(), inherited=False))
    results: dict[str, dict[int, list[Found]]] = {}

    def keep(camera: str, message: Detection2DArray) -> None:
        found = [_detection(each) for each in message.detections]
        results[camera][stamp_to_ns(message.header.stamp)] = found

    with closing(open_reader(options.bag)) as reader:
        images = {
            connection.topic: connection.msgtype
            for connection in reader.connections
            if connection.msgtype in BY_TYPE
        }
        cameras, files = _configure(options, images)
        results |= {camera: {} for camera in cameras}
        replay = ReplayOptions(
            bag=options.bag,
            max=True,
            topics=list(cameras.values()),
            results=[f"/{camera}/detections" for camera in cameras],
        )
        with (
            tempfile.TemporaryDirectory(prefix="yolox_trt_regress_") as folder,
            ros_node(lambda: ResultListener(list(cameras), keep)) as (node, executor),
            ChildProcesses(options.logs or Path(folder)) as processes,
        ):
            on_progress("starting multi_camera", 0, None)
            processes.start_multi_camera({}, START_TIMEOUT, files=files)
            player = BagPlayer(reader, node, executor, replay, say)
            publishers = player.image_publishers
            wait_for_subscribers(executor, publishers, START_TIMEOUT, needed=publishers)
            for _ in player.play():
                processes.check_alive()
                on_progress(str(options.bag), player.published, player.count)
            say(player.summary())
    return results


def camera_sections(images: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return a camera with its parameters for each image topic of a bag, called as the topic is.

    Args:
        images: image topic -> type of its messages.
    """
    sections: dict[str, dict[str, Any]] = {}
    for topic, results in detection_topics(images).items():
        name = results.removesuffix("/detections").strip("/").replace("/", "_") or "camera"
        while name in sections or name == EXECUTOR_NODE:  # as of an image that is there twice
            name += "_2"
        image_topic, transport = transport_of_topic(topic, images[topic])
        sections[name] = {"image_topic": image_topic, "transport": transport.name}
    return sections


def _configure(
    options: RegressOptions, images: dict[str, str]
) -> tuple[dict[str, str], Sequence[str]]:
    """Return camera -> its topic in the bag, in the bag's order, and the parameter files."""
    values = argument_values(options.arguments)
    sections: dict[str, dict[str, Any]] = {}
    if options.config is None and "cameras" not in values:
        sections = camera_sections(images)
        sections[EXECUTOR_NODE] = {"cameras": list(sections)}
    values["config"] = str(options.config or "")
    first = process_settings(values, sections=sections, strict=True)
    for name in first.cameras:
        sections[name] = sections.get(name, {}) | _LOSSLESS
    settings = process_settings(values, sections=sections, strict=True)
    topics = {}
    for name in settings.cameras:
        node = f"{settings.namespace}/{name}"
        given = parameters_of(settings, node)
        topic = given.get("image_topic", "~/image_raw").replace("~", node, 1)
        if not topic.startswith("/"):
            topic = f"{settings.namespace}/{topic}"
        topic += TRANSPORTS[given.get("transport", "raw")].suffix
        topics[topic] = node.strip("/")
    found = {topics[topic]: topic for topic in images if topic in topics}
    if not found:
        raise ConfigurationError(
            f"bag '{options.bag}' without images on {', '.join(topics)}",
            expected=f"one of {', '.join(images) or 'none'}",
            fix=("set the parameter image_topic in ", _NAMED["config"]),
        )
    return found, settings.files


def _detection(detection: Any) -> Found:
    result, box = detection.results[0].hypothesis, detection.bbox
    x, y = box.center.position.x, box.center.position.y
    half_x, half_y = box.size_x / 2, box.size_y / 2
    return (result.class_id, result.score, x - half_x, y - half_y, x + half_x, y + half_y)
