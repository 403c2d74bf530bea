# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Small rosbag2 bags for tests, written by rosbags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from yolox_trt.ros.messages.transports import TRANSPORTS
from yolox_trt.ros.tools.bag_types import make_typestore

IMAGE_TYPE = TRANSPORTS["raw"].message_type
COMPRESSED_TYPE = TRANSPORTS["compressed"].message_type


def write_bag(
    path: Path,
    *,
    storage: str = "mcap",
    count: int = 5,
    malformed: int = 0,
    cut: dict[int, int] | None = None,
    compression: str = "",
) -> list[np.ndarray]:
    """Write a bag of two cameras and a text topic; return the pictures.

    /front/image_raw (Image) and /rear/image_raw/compressed (PNG) show the same pictures, 10 a
    second from 1 s on. `malformed` images without data follow on /front/image_raw. Of the images
    in `cut`, number -> bytes, there are so many bytes alone. `compression` is what zstd packs:
    "file", "message", "storage" (the chunks of mcap), or nothing.
    """
    store = make_typestore()
    types = store.types
    rng = np.random.default_rng(3)
    pictures = [
        np.kron(rng.integers(0, 256, (12, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        for _ in range(count)
    ]
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    writer = Writer(path, version=9, storage_plugin=plugin)
    if compression:
        writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer as bag:
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
            length = (cut or {}).get(index)
            bag.write(front, time, bytes(store.serialize_cdr(image, IMAGE_TYPE))[:length])
            if whole:
                compressed = types[COMPRESSED_TYPE](
                    header=header(index, "rear_optical"),
                    format="bgr8; png compressed bgr8",
                    data=cv2.imencode(".png", picture)[1].reshape(-1),
                )
                raw = bytes(store.serialize_cdr(compressed, COMPRESSED_TYPE))
                bag.write(rear, time + 1, raw[:length])
        remark = types[text_type](data="the end")
        bag.write(text, time + 2, store.serialize_cdr(remark, text_type))
    return pictures


def write_camera_bag(path: Path, topics: Sequence[str], *, count: int) -> None:
    """Write an mcap bag of cameras whose pictures all differ, 10 a second from 1 s on."""
    store = make_typestore()
    types = store.types
    rng = np.random.default_rng(5)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        cameras = [bag.add_connection(topic, IMAGE_TYPE, typestore=store) for topic in topics]
        for index in range(count):
            stamp = types["builtin_interfaces/msg/Time"](*divmod(10**9 + index * 10**8, 10**9))
            for number, camera in enumerate(cameras):
                pixels = np.kron(rng.integers(0, 256, (12, 16, 3)), np.ones((8, 8, 1)))
                image = types[IMAGE_TYPE](
                    header=types["std_msgs/msg/Header"](stamp, f"camera{number}"),
                    height=96,
                    width=128,
                    encoding="bgr8",
                    is_bigendian=0,
                    step=384,
                    data=pixels.astype(np.uint8).reshape(-1),
                )
                raw = store.serialize_cdr(image, IMAGE_TYPE)
                bag.write(camera, 10**9 + index * 10**8 + number, raw)


def write_video_bag(path: Path, packets: Sequence[bytes], transport: str, encoding: str) -> str:
    """Write an mcap bag of one camera's video, 10 packets a second from 1 s on; return its topic.

    Args:
        path: folder to be made.
        packets: the packets.
        transport: "ffmpeg" or "foxglove".
        encoding: what the messages call it.
    """
    store, kind = make_typestore(), TRANSPORTS[transport]
    topic = kind.topic("/front/image_raw")
    make, stamp_type = store.types[kind.message_type], store.types["builtin_interfaces/msg/Time"]
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        camera = bag.add_connection(topic, kind.message_type, typestore=store)
        for index, packet in enumerate(packets):
            time = 10**9 + index * 10**8
            stamp, data = stamp_type(*divmod(time, 10**9)), np.frombuffer(packet, np.uint8)
            if transport == "foxglove":
                message = make(stamp, "lens", data, encoding)
            else:
                header = store.types["std_msgs/msg/Header"](stamp, "lens")
                message = make(header, 128, 96, encoding, index, 0, False, data)
            bag.write(camera, time, store.serialize_cdr(message, kind.message_type))
    return topic
