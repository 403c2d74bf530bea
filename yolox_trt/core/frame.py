# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Frame: one image as a view on bytes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core import encodings
from yolox_trt.core.errors import FrameError
from yolox_trt.core.roi import Roi


@dataclass(frozen=True, eq=False)
class Frame:
    """One image: a view on the bytes of a message or file, never a copy.

    The bytes are copied once, into a Detector's staging buffer or straight through the CPU's
    resize. The buffer must stay unchanged until the frame's detections are out.

    Attributes:
        data: uint8 (size,), C-contiguous view of the image's bytes; rows are `step` bytes apart.
        height: rows, in pixels.
        width: columns, in pixels.
        encoding: canonical name from `core.encodings.ENCODINGS`.
        step: bytes from one row to the next.
        stamp_ns: acquisition time from the header, ROS time in nanoseconds.
        frame_id: coordinate frame of the camera, from the header.
        stream_id: the Stream (camera) that it belongs to.
        received_ns: time.monotonic_ns() (or the executor clock's time) of arrival.
        roi: rectangle that the network sees, None for the whole image.
        device_array: array on a CUDA device that holds the bytes instead; `data` is empty then.
        ready: whether `device_array` is complete: True; False: when the work is done that is on the
            current CUDA stream of the thread that hands the frame to a detector or an executor; or
            a CUDA event (record, synchronize) that tells it.
        reduction: pixels of the source, along each axis, that one stands for, where a JPEG was
            decoded at a smaller scale. The executor's results are in source pixels all the same.
        full_size: (height, width) of the source then; None where it is the frame's own.
    """

    data: npt.NDArray[np.uint8]
    height: int
    width: int
    encoding: str
    step: int
    stamp_ns: int = 0
    frame_id: str = ""
    stream_id: str = ""
    received_ns: int = 0
    roi: Roi | None = None
    device_array: Any = field(default=None, repr=False)
    ready: Any = field(default=True, repr=False)
    reduction: int = 1
    full_size: tuple[int, int] | None = None

    @classmethod
    def view(
        cls,
        buffer: Any,
        *,
        height: int,
        width: int,
        encoding: str,
        step: int = 0,
        **metadata: Any,
    ) -> Frame:
        """View a buffer as a Frame, after checking it.

        Args:
            buffer: bytes-like object or uint8 array with the image's bytes.
            height: rows.
            width: columns.
            encoding: ROS encoding name; aliases are made canonical.
            step: bytes from row to row; 0 means rows without padding.
            metadata: the other attributes of Frame.

        Raises:
            FrameError: unknown encoding, something whose bytes do not lie one after the other, or
                a buffer that does not fit (see check_buffer).
        """
        layout = encodings.lookup(encoding)
        if layout is None:
            fix = "convert in the camera driver, or install cv_bridge for other encodings"
            raise FrameError.unknown("image encoding", encoding, encodings.ENCODINGS, fix=fix)
        step = step or width * layout.bytes_per_pixel
        try:
            data = np.frombuffer(buffer, dtype=np.uint8)
        except (TypeError, ValueError, BufferError) as error:
            raise FrameError(
                f"image data of type {type(buffer).__name__} ({error})",
                expected="bytes that lie one after the other",
                fix="numpy.ascontiguousarray(image), or Frame.from_array(image)",
            ) from error
        encodings.check_buffer(layout, height, width, step, data.size)
        roi = metadata.get("roi")
        if roi is not None:
            roi.check_inside(height, width)
        return cls(
            data=data, height=height, width=width, encoding=layout.name, step=step, **metadata
        )

    @classmethod
    def from_array(
        cls, image: npt.NDArray[np.uint8], encoding: str = "bgr8", **metadata: Any
    ) -> Frame:
        """View a (H, W), (H, W, C) uint8 image as a Frame; rows may be padded (a crop of columns).

        Raises:
            FrameError: pixels inside a row are not adjacent, or the encoding does not fit.
        """
        layout = encodings.lookup(encoding)
        if layout is None or layout.rows_per_height != 1.0:
            raise FrameError(
                f"image array with encoding '{encoding}'",
                expected="a packed encoding such as bgr8, rgb8, bgra8, rgba8, mono8, uyvy",
                fix="use Frame.view(buffer, height=..., width=..., encoding=...) for planar ones",
            )
        channels = image.shape[2] if image.ndim == 3 else 1
        packed = image.strides[1:] == ((channels, 1) if image.ndim == 3 else (1,))
        if image.dtype != np.uint8 or channels != layout.channels or not packed:
            raise FrameError(
                f"array of shape {image.shape}, {image.dtype}, strides {image.strides}",
                expected=f"uint8 with {layout.channels} adjacent channels for {layout.name}",
                fix="numpy.ascontiguousarray(image)",
            )
        height, width = image.shape[:2]
        step = image.strides[0] if height > 1 else width * layout.bytes_per_pixel
        if step < 0:
            raise FrameError(
                "an array with rows in reverse order",
                expected="rows from top to bottom",
                fix="numpy.ascontiguousarray(image)",
            )
        size = (height - 1) * step + width * layout.bytes_per_pixel
        data = np.lib.stride_tricks.as_strided(image, (size,), (1,), writeable=False)
        return cls.view(
            data, height=height, width=width, encoding=layout.name, step=step, **metadata
        )

    @classmethod
    def on_device(
        cls, array: Any, encoding: str, *, complete: bool = False, **metadata: Any
    ) -> Frame:
        """View an image on a CUDA device (a CuPy array, a torch tensor) as a Frame.

        Work that writes it may be under way on the current stream (CuPy's, torch's) of the thread
        that hands the frame to a detector or to an executor: they read it behind that work.

        Args:
            array: uint8 (H, W), (H, W, 2), (H, W, 3) or (H, W, 4) with
                __cuda_array_interface__, nv12 (H * 3 / 2, W); rows may be padded.
            encoding: bgr8, rgb8, bgra8, rgba8, mono8, uyvy, yuy2 or nv12, as the shape has it.
            complete: nothing writes it any more, so that nobody waits.
            metadata: the other attributes of Frame.

        Raises:
            FrameError: pixels inside a row are not adjacent, or the encoding does not fit.
            ConfigurationError: a roi that is not inside the image.
        """
        layout = encodings.lookup_on_device(encoding)
        interface = array.__cuda_array_interface__
        shape, channels = tuple(interface["shape"]), layout.channels
        pixel = shape[2] if len(shape) == 3 else 1
        if len(shape) not in (2, 3):
            raise FrameError(
                f"device array of shape {shape}", expected="(H, W) or (H, W, channels)"
            )
        packed = (shape[1] * pixel, *((pixel, 1) if len(shape) == 3 else (1,)))
        strides = tuple(interface.get("strides") or packed)
        if (
            pixel != channels
            or interface["typestr"] not in ("|u1", "<u1")
            or strides[1:] != packed[1:]
            or strides[0] < packed[0]
        ):
            raise FrameError(
                f"device array of shape {shape}, {interface['typestr']}, strides {strides}",
                expected=f"uint8 with {channels} adjacent channels for {layout.name}",
                fix="give a contiguous copy of it",
            )
        height, width = shape[:2]
        size = (height - 1) * strides[0] + width * layout.bytes_per_pixel
        if layout.name == "nv12":
            encodings.check_planes(height, width)
            height = height * 2 // 3
        encodings.check_buffer(layout, height, width, strides[0], size)
        if (roi := metadata.get("roi")) is not None:
            roi.check_inside(height, width)
        return cls(
            data=np.empty(0, np.uint8),
            height=height,
            width=width,
            encoding=layout.name,
            step=strides[0],
            device_array=array,
            ready=complete,
            **metadata,
        )

    def on_host(self) -> Frame:
        """Return the Frame with its bytes in host memory: itself, or a copy of a device's."""
        array = self.device_array
        if array is None:
            return self
        if not isinstance(self.ready, bool):
            self.ready.synchronize()
        # as torch, CuPy and Numba call it
        copy = next(getattr(array, n) for n in ("cpu", "get", "copy_to_host") if hasattr(array, n))
        pixels = np.ascontiguousarray(copy())
        step = pixels.strides[0]
        return replace(self, data=pixels.reshape(-1), step=step, device_array=None, ready=True)

    @property
    def source_size(self) -> tuple[int, int]:
        """(height, width) of the source image, in pixels."""
        height, width = self.full_size or (self.height, self.width)
        return height, width

    @property
    def rows(self) -> npt.NDArray[np.uint8]:
        """The image as a strided view, without a copy.

        Returns:
            uint8 (H, W, C) for packed encodings with C > 1, (H, W) for mono8 and bayer_*,
            (H * 3 / 2, W) for nv12.

        Raises:
            FrameError: the bytes lie on a CUDA device.
        """
        if self.device_array is not None:
            raise FrameError(
                "the rows of an image on a GPU", expected="one in host memory", fix="use on_host()"
            )
        layout = encodings.ENCODINGS[self.encoding]
        rows = int(self.height * layout.rows_per_height)
        if layout.channels == 1:
            return np.lib.stride_tricks.as_strided(
                self.data, (rows, self.width), (self.step, 1), writeable=False
            )
        return np.lib.stride_tricks.as_strided(
            self.data,
            (rows, self.width, layout.channels),
            (self.step, layout.channels, 1),
            writeable=False,
        )
