# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Small rosbag2 bags for tests, written by rosbags."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from yolox_trt.ros.tools.bag_types import COMPRESSED_TYPE, IMAGE_TYPE, make_typestore


def write_bag(
    path: Path, *, storage: str = "mcap", count: int = 5, malformed: int = 0
) -> list[np.ndarray]:
    """Write a bag of two cameras and a text topic; return the pictures.

    /front/image_raw (Image) and /rear/image_raw/compressed (PNG) show the same pictures, 10 a
    second from 1 s on. `malformed` images without data follow on /front/image_raw.
    """
    store = make_typestore()
    types = store.types
    rng = np.random.default_rng(3)
    pictures = [
        np.kron(rng.integers(0, 256, (12, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        for _ in range(count)
    ]
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    with Writer(path, version=9, storage_plugin=plugin) as bag:
        front = bag.add_connection("/front/image_raw", IMAGE_TYPE, typestore=store)
        rear = bag.add_connection("/rear/image_raw/compressed", COMPRESSED_TYPE, typestore=store)
        text_type = "std_msgs/msg/String"
        text = bag.add_connection("/remark", text_type, typestore=store)

        def header(index: int, frame_id: str) -> object:
            stamp = 10**9 + index * 10**8
            return types["std_msgs/msg/Header"](
                stamp=types["builtin_interfaces/msg/Time"](
                    sec=stamp // 10**9, nanosec=stamp % 10**9
                ),
                frame_id=frame_id,
            )

        for index in range(count + malformed):
            whole = index < count
            picture = pictures[index] if whole else np.zeros(0, np.uint8)
            time = 10**9 + index * 10**8
            image = types[IMAGE_TYPE](
                header=header(index, "front_optical"),
                height=96,
                width=128,
                encoding="bgr8",
                is_bigendian=0,
                step=384,
                data=picture.reshape(-1),
            )
            bag.write(front, time, store.serialize_cdr(image, IMAGE_TYPE))
            if whole:
                compressed = types[COMPRESSED_TYPE](
                    header=header(index, "rear_optical"),
                    format="bgr8; png compressed bgr8",
                    data=cv2.imencode(".png", picture)[1].reshape(-1),
                )
                bag.write(rear, time + 1, store.serialize_cdr(compressed, COMPRESSED_TYPE))
        remark = types[text_type](data="the end")
        bag.write(text, time + 2, store.serialize_cdr(remark, text_type))
    return pictures
