# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Preprocessing on the CPU with OpenCV, straight into a host engine's input buffer."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from yolox_trt.core.encodings import ENCODINGS
from yolox_trt.core.errors import FrameError
from yolox_trt.core.frame import Frame
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.model_spec import Preprocessing
from yolox_trt.kernels.reference.color import bayer_code
from yolox_trt.kernels.reference.preprocess import check_uint8, sampled_positions

UInt8 = npt.NDArray[np.uint8]

#: Channel of the converted image that holds blue, green, red.
_CHANNELS = {
    "bgr8": (0, 1, 2),
    "bgra8": (0, 1, 2),
    "rgb8": (2, 1, 0),
    "rgba8": (2, 1, 0),
    "mono8": (0, 0, 0),
}
_CONVERTED = (0, 1, 2)

#: Pixels around the Roi that demosaicing reads: two, so that the Bayer pattern keeps its phase.
_BAYER_MARGIN = 2


#: From this downscale on, fewer than three quarters of the rows are read, and picking them pays.
_SPARSE_FROM = 2.7
_BAND_ROWS = 64


class CpuPreprocessor:
    """Makes network inputs as `kernels.reference.preprocess` defines them, within 1 LSB.

    OpenCV resizes packed colours as they are; the order of the channels costs nothing, since
    planes are written one by one. Scratch images are kept for the last geometry: a stream of
    equal frames allocates nothing.

    Args:
        preprocessing: what the network expects.
        input_scale: real value of one step of an int8 input.
    """

    def __init__(self, preprocessing: Preprocessing, *, input_scale: float = 1.0) -> None:
        self._preprocessing = preprocessing
        self._input_scale = input_scale
        multiplier, offset = preprocessing.factors
        self._multiplier = [np.float32(v) for v in multiplier]
        self._offset = [np.float32(v) for v in offset]
        # Output planes in the order of blue, green, red.
        self._planes = (0, 1, 2) if preprocessing.color_order == "bgr" else (2, 1, 0)
        self._scratch: dict[str, UInt8] = {}
        self._float: npt.NDArray[np.float32] = np.empty((0, 0), np.float32)
        # Rows of a YUV frame that the last geometry reads.
        self._rows: npt.NDArray[np.intp] = np.empty(0, np.intp)
        self._rows_key: tuple[Letterbox, int, str] | None = None
        #: What the padding of each output buffer was last written for, by the buffer's address.
        self._padded: dict[int, tuple[int, int, int, int]] = {}

    def __call__(self, frame: Frame, out: npt.NDArray[Any]) -> Letterbox:
        """Write a Frame into one image of an input buffer.

        Args:
            frame: the image, any encoding of core.encodings.
            out: (3, H, W), float32, float16, uint8 or int8, C-contiguous. The same buffer must
                not be written by others between two calls: the padding is written only when the
                geometry changes.

        Returns:
            The geometry, for the way back.

        Raises:
            FrameError: OpenCV cannot convert the frame.
            ModelError: uint8 with a scale, mean or std.
        """
        letterbox = Letterbox.of_frame(
            frame, out.shape[1], out.shape[2], self._preprocessing.resize
        )
        if out.dtype == np.uint8:
            check_uint8(self._preprocessing)
        with FrameError.instead_of(
            cv2.error,
            f"{frame.encoding} image of {frame.width}x{frame.height} that OpenCV cannot convert",
            expected="an image that matches its encoding",
            fix="check the camera driver",
        ):
            resized = self._resize(frame, letterbox)
        self._pad(letterbox, out)
        channels = _CHANNELS.get(frame.encoding, _CONVERTED)
        if resized.ndim == 2:
            planes = [resized]
        else:
            planes = [
                self._buffer(f"plane{c}", letterbox.resized_height, letterbox.resized_width)
                for c in range(resized.shape[2])
            ]
            cv2.split(resized, planes)
        for channel, plane in zip(channels, self._planes, strict=True):
            target = out[plane][letterbox.image_area]
            self._convert(planes[channel], plane, target)
        return letterbox

    def _resize(self, frame: Frame, letterbox: Letterbox) -> UInt8:
        """Crop, convert where a packed colour is not at hand, and resize."""
        source = self._source(frame, letterbox)
        height, width = letterbox.resized_height, letterbox.resized_width
        if source.shape[:2] == (height, width):
            return source
        channels = 1 if source.ndim == 2 else source.shape[2]
        target = self._buffer("resized", height, width, channels)
        cv2.resize(source, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
        return target

    def _source(self, frame: Frame, letterbox: Letterbox) -> UInt8:
        """Return the Roi as uint8 (h, w, 3 or 4) in the encoding's channel order, or (h, w)."""
        rows = frame.rows
        roi = letterbox.roi
        if frame.encoding in _CHANNELS:
            return rows[roi.y : roi.y + roi.height, roi.x : roi.x + roi.width]
        # Chroma and mosaic come in pairs: convert an even rectangle around the Roi.
        bayer = frame.encoding.startswith("bayer_")
        margin = _BAYER_MARGIN if bayer else 0
        left, right = _even(roi.x, roi.x + roi.width, margin, frame.width)
        top, bottom = roi.y, roi.y + roi.height
        if ENCODINGS[frame.encoding].even_height:
            top, bottom = _even(top, bottom, margin, frame.height)
        bgr = self._buffer("bgr", bottom - top, right - left, 3)
        if bayer:
            cv2.cvtColor(rows[top:bottom, left:right], bayer_code(frame.encoding), dst=bgr)
        elif frame.encoding == "nv12":
            luma = rows[top:bottom, left:right]
            first = frame.height + top // 2
            pairs = rows[first : first + (bottom - top) // 2, left:right]
            self._convert_yuv(frame.encoding, luma, pairs, letterbox, roi.y - top, bgr)
        else:
            packed = rows[top:bottom, left:right]
            self._convert_yuv(frame.encoding, packed, None, letterbox, roi.y - top, bgr)
        return bgr[roi.y - top : roi.y - top + roi.height, roi.x - left : roi.x - left + roi.width]

    def _convert_yuv(
        self,
        encoding: str,
        luma: UInt8,
        chroma: UInt8 | None,
        letterbox: Letterbox,
        above: int,
        bgr: UInt8,
    ) -> None:
        """Convert those rows of nv12, uyvy or yuy2 that the resize will read.

        Args:
            encoding: nv12, uyvy or yuy2.
            luma: (h, w) of nv12, or the packed pixels (h, w, 2).
            chroma: (h / 2, w) of nv12.
            letterbox: what is read.
            above: rows of `luma` above the Roi.
            bgr: (h, w, 3), where to; rows that are not read keep what they had.
        """
        if letterbox.roi.height < _SPARSE_FROM * letterbox.resized_height:
            _convert_rows(encoding, luma, chroma, bgr)
            return
        key = (letterbox, above, encoding)
        if self._rows_key != key:
            block = 1 if chroma is None else 2
            self._rows = _rows_read(letterbox, above, luma.shape[0], block)
            self._rows_key = key
        # In bands that stay in the processor's cache.
        some = self._buffer("some", _BAND_ROWS, *luma.shape[1:])
        some_chroma = self._buffer("some chroma", _BAND_ROWS // 2, luma.shape[1])
        converted = self._buffer("converted", _BAND_ROWS, luma.shape[1], 3)
        for start in range(0, len(self._rows), _BAND_ROWS):
            band = self._rows[start : start + _BAND_ROWS]
            count = len(band)
            np.take(luma, band, axis=0, out=some[:count], mode="clip")
            pairs = None
            if chroma is not None:
                pairs = some_chroma[: count // 2]
                np.take(chroma, band[::2] // 2, axis=0, out=pairs, mode="clip")
            _convert_rows(encoding, some[:count], pairs, converted[:count])
            bgr[band] = converted[:count]

    def _convert(self, source: UInt8, plane: int, target: npt.NDArray[Any]) -> None:
        """Write one channel: 0..255, times the multiplier, plus the offset, in target's type."""
        if self._preprocessing.is_identity and target.dtype != np.int8:
            np.copyto(target, source, casting="unsafe")
            return
        values = target
        if target.dtype != np.float32:
            if self._float.shape != source.shape:
                self._float = np.empty(source.shape, np.float32)
            values = self._float
        np.multiply(source, self._multiplier[plane], out=values, casting="unsafe")
        np.add(values, self._offset[plane], out=values)
        if target.dtype == np.int8:
            np.divide(values, np.float32(self._input_scale), out=values)
            np.rint(values, out=values)
            np.clip(values, -128, 127, out=values)
        if values is not target:
            np.copyto(target, values, casting="unsafe")

    def _pad(self, letterbox: Letterbox, out: npt.NDArray[Any]) -> None:
        rows, columns = letterbox.image_area
        edges = (rows.start, rows.stop, columns.start, columns.stop)
        address = out.ctypes.data
        if self._padded.get(address) == edges:
            return
        grey = np.full((1, 1), self._preprocessing.pad, np.uint8)
        for plane in range(3):
            value = np.empty((1, 1), out.dtype)
            self._convert(grey, plane, value)
            for above, beside in ((slice(rows.start), slice(columns.start)),
                                  (slice(rows.stop, None), slice(columns.stop, None))):  # fmt: skip
                out[plane, above] = value
                out[plane, :, beside] = value
        self._padded[address] = edges

    def _buffer(self, name: str, *shape: int) -> UInt8:
        """Return the scratch image of a name, allocated anew only when its shape changes."""
        if shape[-1] == 1 and len(shape) == 3:
            shape = shape[:2]
        found = self._scratch.get(name)
        if found is None or found.shape != shape:
            found = self._scratch[name] = np.empty(shape, np.uint8)
        return found


def _convert_rows(encoding: str, luma: UInt8, chroma: UInt8 | None, bgr: UInt8) -> None:
    """Convert whole rows of nv12, uyvy or yuy2."""
    if chroma is None:
        code = cv2.COLOR_YUV2BGR_UYVY if encoding == "uyvy" else cv2.COLOR_YUV2BGR_YUY2
        cv2.cvtColor(luma, code, dst=bgr)
        return
    pairs = np.lib.stride_tricks.as_strided(
        chroma,
        (chroma.shape[0], chroma.shape[1] // 2, 2),
        (chroma.strides[0], 2, 1),
        writeable=False,
    )
    cv2.cvtColorTwoPlane(luma, pairs, cv2.COLOR_YUV2BGR_NV12, dst=bgr)


def _rows_read(letterbox: Letterbox, above: int, height: int, block: int) -> npt.NDArray[np.intp]:
    """Return the rows that a bilinear resize reads, in whole blocks that share their chroma.

    Args:
        letterbox: the geometry.
        above: rows above the Roi.
        height: rows in all, a multiple of `block`.
        block: rows that share a chroma row.
    """
    position = sampled_positions(letterbox.roi.height, letterbox.resized_height)
    # OpenCV reckons in float32: next to a whole number it may take the row before.
    taps = [np.floor(position + shift) + tap for shift in (-1e-3, 1e-3) for tap in (0, 1)]
    rows = np.clip(np.concatenate(taps), 0, letterbox.roi.height - 1) + above
    blocks = np.unique(rows.astype(np.intp) // block)
    return np.asarray((blocks[:, None] * block + np.arange(block)).reshape(-1), np.intp)


def _even(low: int, high: int, margin: int, size: int) -> tuple[int, int]:
    """Widen low..high by a margin, then to even numbers, inside 0..size (even)."""
    low = max(0, (low - margin) // 2 * 2)
    return low, min(size, (high + margin + 1) // 2 * 2)
