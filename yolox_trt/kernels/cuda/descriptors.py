# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The structures that host and kernels share: one image, one level of the head, one result.

Field for field the structs at the head of preprocess.cu, postprocess.cu and masks.cu. They are
packed with `struct`, not with NumPy records: a frame's whole description is one call.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import FrameError, ModelError
from yolox_trt.core.frame import Frame
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.postprocess_options import PostprocessOptions

#: struct Image: data, chroma, step, encoding, roi x y width height, resized width height,
#: ratio x y, swap, compact.
IMAGE = struct.Struct("<QQ8i2f2i")
#: struct Post: inverse scale x y, left, top, roi x y width height, nms_threshold, class_agnostic,
#: max_detections.
POST = struct.Struct("<9f2i")
#: struct Plane: data, image_step, first_channel, shift, group_step, row_step, cell_step, scale.
PLANE = struct.Struct("<2Q5if")
#: A struct Plane that no kernel reads.
NO_PLANE = bytes(PLANE.size)
#: struct Finished: counts, boxes, scores, classes; slots; steps of boxes, scores, classes.
FINISHED = struct.Struct("<4Q4i")
#: struct Level behind its three structs Plane: stride, width, cells, first_anchor, first_block,
#: reserved.
LEVEL = struct.Struct("<6i")
#: struct Job of masks.cu: runs, capacity, source height width, roi x y width height, resized height
#: width, top, left, reserved.
MASK = struct.Struct("<Q12i")
#: struct Header: count, candidates, overflow, flags.
HEADER = struct.Struct("<4i")

#: Bytes that must be readable behind an image's last byte: kernels read whole lines of 128 bytes.
#: Before its first byte they read down to a multiple of 128, which no allocation starts behind.
SOURCE_MARGIN = 288

#: The encodings that preprocess.cu reads, in its numbering.
ENCODING_CODES: dict[str, int] = {
    "bgr8": 0,
    "rgb8": 1,
    "bgra8": 2,
    "rgba8": 3,
    "mono8": 4,
    "nv12": 5,
    "uyvy": 6,
    "yuy2": 7,
}


def pack_image(
    buffer: Any,
    offset: int,
    frame: Frame,
    letterbox: Letterbox,
    *,
    color_order: str,
    data: int,
    chroma: int | None = None,
    compact: bool = False,
) -> None:
    """Write a struct Image.

    Args:
        buffer: writable bytes-like object.
        offset: where in `buffer`.
        frame: the image; its encoding must be in ENCODING_CODES.
        letterbox: its geometry.
        color_order: "bgr" or "rgb", of the network.
        data: device address at which the image's first byte lies, or would lie if all rows had
            been copied.
        chroma: nv12: likewise of the chroma plane; None: right behind the luma plane.
        compact: at `data` (and `chroma`) lie only the rows that are sampled, as
            sampled_rows lists them.
    """
    roi = letterbox.roi
    if frame.encoding == "nv12" and chroma is None:
        chroma = data + frame.height * frame.step
    memory_order = "rgb" if frame.encoding in ("rgb8", "rgba8") else "bgr"
    IMAGE.pack_into(
        buffer,
        offset,
        data,
        chroma or 0,
        frame.step,
        ENCODING_CODES[frame.encoding],
        roi.x,
        roi.y,
        roi.width,
        roi.height,
        letterbox.resized_width,
        letterbox.resized_height,
        roi.width / letterbox.resized_width,
        roi.height / letterbox.resized_height,
        memory_order != color_order,
        compact,
    )


def sampled_rows(letterbox: Letterbox) -> npt.NDArray[np.intp]:
    """Return the image rows that preprocess.cu samples, by its own arithmetic.

    Returns:
        (2 * resized_height,): rows 2 i and 2 i + 1 are the taps of network row i.
    """
    roi = letterbox.roi
    ratio = np.float32(roi.height / letterbox.resized_height)
    position = np.arange(letterbox.resized_height) + 0.5
    # The product and the sum are exact in double precision, so this rounds once, as fmaf does.
    source = (position * np.float64(ratio) - 0.5).astype(np.float32)
    source = np.clip(source, np.float32(0), np.float32(roi.height - 1))
    above = np.clip(source.astype(np.intp), 0, max(roi.height - 2, 0))
    below = above + (roi.height > 1)
    return roi.y + np.stack([above, below], axis=1).ravel()


def pack_post(
    buffer: Any,
    offset: int,
    letterbox: Letterbox,
    options: PostprocessOptions,
) -> None:
    """Write a struct Post.

    Args:
        buffer: writable bytes-like object.
        offset: where in `buffer`.
        letterbox: the image's geometry.
        options: thresholds; the score thresholds travel apart, one for each class.
    """
    roi = letterbox.roi
    POST.pack_into(
        buffer,
        offset,
        1.0 / letterbox.scale_x,
        1.0 / letterbox.scale_y,
        letterbox.left,
        letterbox.top,
        roi.x,
        roi.y,
        roi.width,
        roi.height,
        options.nms_threshold,
        options.class_agnostic,
        options.max_detections,
    )


def make_runs(cupy: Any, capacity: int) -> npt.NDArray[np.uint32]:
    """Return page-locked memory for a struct Run {runs, fault} and `capacity` more, uint32 (R, 2).

    With unified addressing, a kernel writes there by the host's address.
    """
    size = 8 * (capacity + 1)
    memory = np.frombuffer(cupy.cuda.alloc_pinned_memory(size), np.uint32, size // 4)
    return memory.reshape(-1, 2)


def pack_mask(
    buffer: Any, offset: int, letterbox: Letterbox, runs: npt.NDArray[np.uint32] | None
) -> None:
    """Write a struct Job of masks.cu.

    Args:
        buffer: writable bytes-like object.
        offset: where in `buffer`.
        letterbox: the image's geometry.
        runs: where its runs go, of make_runs(); None where no mask is asked for.

    Raises:
        FrameError: the image is too large for the kernel's whole numbers.
    """
    roi = letterbox.roi
    width, height = (
        letterbox.left + letterbox.resized_width,
        letterbox.top + letterbox.resized_height,
    )
    across, down = roi.width * width, roi.height * height
    # 32 bits hold (2 i + 1) * resized + 2 roi * padding; sizes of inputs are far smaller.
    if runs is not None and max(across, down) >= 1 << 31:
        raise FrameError(
            f"an image of {roi.width}x{roi.height} pixels for a mask",
            expected=f"less than {(1 << 31) // max(width, height)} columns and rows",
            fix="take a smaller roi",
        )
    MASK.pack_into(
        buffer,
        offset,
        0 if runs is None else runs.ctypes.data,
        0 if runs is None else len(runs) - 1,
        letterbox.source_height,
        letterbox.source_width,
        roi.x,
        roi.y,
        roi.width,
        roi.height,
        letterbox.resized_height,
        letterbox.resized_width,
        letterbox.top,
        letterbox.left,
        0,
    )


def pack_plane(
    tensor: Any, name: str, size: tuple[int, int], channel: int = 0, scale: float = 1.0
) -> bytes:
    """Return a struct Plane of an output (N, C, H, W), or packed (N, groups, H, W, 16 or 32).

    Args:
        tensor: the output, a cupy array; its rows may be padded (strides).
        name: its name.
        size: its (H, W).
        channel: the first channel.
        scale: real value of one step of an int8 output.

    Raises:
        ModelError: it lies as no engine writes it.
    """
    steps = [step // tensor.itemsize for step in tensor.strides]
    packing = tensor.shape[4] if tensor.ndim == 5 else 1
    if tensor.ndim not in (4, 5) or tensor.shape[2:4] != size or packing not in (1, 16, 32):
        raise ModelError(
            f"output '{name}' of shape {tensor.shape}",
            expected=f"(N, C, {size[0]}, {size[1]}), or packed by 16 or 32 channels",
            fix="build the engine again",
        )
    image, group, row, cell = steps[:4]
    shift = packing.bit_length() - 1
    return PLANE.pack(tensor.data.ptr, image, channel, shift, group, row, cell, scale)


def result_dtype(capacity: int) -> np.dtype[Any]:
    """Return the NumPy view of one image's result: a Header, then `capacity` detections.

    The size is a multiple of 16 bytes, as the kernel's 16-byte stores need.
    """
    size = HEADER.size + 24 * capacity
    return np.dtype(
        {
            "names": ["count", "candidates", "overflow", "flags", "boxes", "scores", "class_ids"],
            "formats": [
                *[np.int32] * 4,
                (np.float32, (capacity, 4)),
                (np.float32, (capacity,)),
                (np.int32, (capacity,)),
            ],
            "itemsize": -(-size // 16) * 16,
        }
    )
