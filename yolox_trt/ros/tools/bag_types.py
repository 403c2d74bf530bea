# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Message types for bags, without ROS: rosbags' own, vision_msgs, and packets of video."""

from __future__ import annotations

import functools
from typing import Any

from yolox_trt.core.optional import require

DETECTIONS_TYPE = "vision_msgs/msg/Detection2DArray"

#: Fields of the vision_msgs 4 types that Detection2DArray consists of, as in interfaces/ (a test
#: compares them).
VISION_DEFINITIONS: dict[str, str] = {
    "vision_msgs/msg/Point2D": "float64 x\nfloat64 y\n",
    "vision_msgs/msg/Pose2D": "vision_msgs/Point2D position\nfloat64 theta\n",
    "vision_msgs/msg/BoundingBox2D": (
        "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n"
    ),
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score\n",
    "vision_msgs/msg/ObjectHypothesisWithPose": (
        "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n"
    ),
    "vision_msgs/msg/Detection2D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox2D bbox\nstring id\n"
    ),
    DETECTIONS_TYPE: "std_msgs/Header header\nvision_msgs/Detection2D[] detections\n",
}

#: Fields of the packets of video that rosbags does not know, as in interfaces/.
VIDEO_DEFINITIONS: dict[str, str] = {
    "foxglove_msgs/msg/CompressedVideo": (
        "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n"
    ),
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": (
        "std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\n"
        "uint8 flags\nbool is_bigendian\nuint8[] data\n"
    ),
}


@functools.cache
def make_typestore() -> Any:
    """Return the rosbags typestore of ROS 2's common types, vision_msgs and packets of video.

    It is one for the whole process: it writes code for each type that is read or written.

    Raises:
        MissingDependencyError: rosbags is missing.
    """
    typesys = require("rosbags.typesys", purpose="reading and writing bags")
    store = typesys.get_typestore(typesys.Stores.LATEST)
    definitions: dict[str, Any] = {}
    for name, text in (VISION_DEFINITIONS | VIDEO_DEFINITIONS).items():
        definitions.update(typesys.get_types_from_msg(text, name))
    store.register(definitions)
    return store
