# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""create_decoder: what decodes a camera's images, on the CPU or into the GPU's memory.

The GPU's decoders are written against the documentation of nvImageCodec 0.5 to 0.9 and
PyNvVideoCodec 2, and were run on an NVIDIA H200.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yolox_trt.core.decoding import STILL, ImageDecoder, Packet, StillDecoder, VideoDecoder
from yolox_trt.core.device import Device
from yolox_trt.core.errors import FrameError, Message, MissingDependencyError, YoloxTrtError
from yolox_trt.core.faults import library_fault
from yolox_trt.core.frame import Frame
from yolox_trt.core.image_header import image_size, is_jpeg, is_whole_jpeg
from yolox_trt.core.limits import ImageLimits
from yolox_trt.core.option import OptionGroup, option, options_of
from yolox_trt.core.optional import require
from yolox_trt.core.pyav import PyAvBackend
from yolox_trt.engines.cuda_driver import require_gpu

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DecoderOptions(OptionGroup):
    """What decodes compressed images and video."""

    decoder: str = option(
        "cpu",
        choices=("cpu", "gpu"),
        help="What decodes compressed images and video. cpu: OpenCV, and PyAV for H.264 and HEVC. "
        "gpu: nvImageCodec for JPEG, PyNvVideoCodec for H.264 and HEVC without B frames, into the "
        "GPU's memory; a camera for which that cannot be goes on with cpu, and a line in the log "
        "says why.",
    )
    jpeg_scale: str = option(
        "1",
        choices=("1", "1/2", "1/4", "1/8"),
        help="Smallest scale at which a JPEG is decoded on the CPU, in less time, as long as it is "
        "no smaller than the network's input. Not with `roi`, nor with a model that has masks, "
        "that stretches the images, or whose input size follows them. docs/decisions/decoding.md "
        "tells what it changes.",
    )

    @property
    def max_reduction(self) -> int:
        """Pixels along an axis that become one at the smallest scale."""
        return int(self.jpeg_scale[-1])


def decoder_gpu(options: DecoderOptions, devices: Sequence[Device]) -> tuple[int | None, str]:
    """Return the GPU that decodes images for detectors, which read them there.

    Args:
        options: where decoders shall run.
        devices: those of the detectors.

    Returns:
        Its CUDA device ordinal, or None to decode on the CPU; and, where a GPU was asked for, why
        it cannot be, else "".
    """
    if options.decoder != "gpu":
        return None, ""
    found = sorted({device.cuda_index for device in devices if device.is_cuda})
    if len(found) == 1:
        return found[0], ""
    several = "on " + " and ".join(f"gpu:{index}" for index in found)
    return None, f"the detectors are {several if found else 'on no GPU'}; expected one GPU for both"


def create_decoder(
    codec: str,
    options: DecoderOptions,
    limits: ImageLimits,
    say: Callable[[str], object] | None = None,
    device: Device | None = None,
    input_size: tuple[int, int] | None = None,
) -> ImageDecoder:
    """Make the decoder of one camera.

    Args:
        codec: decoding.STILL, "h264" or "hevc".
        options: where it shall run.
        limits: how large an image may be.
        say: takes the line about a GPU that cannot decode; a log by default.
        device: the GPU; the first one by default.
        input_size: (height, width) of the network's input, for `jpeg_scale`.

    Raises:
        MissingDependencyError: PyAV is missing, which video needs on the CPU.
    """
    if options.decoder == "gpu":
        try:
            return _on_gpu(codec, limits, device or Device("gpu"))
        except YoloxTrtError as error:
            found, fix = error.found, error.fix
            (say or _LOGGER.warning)(
                f"{codec} is decoded on the CPU, not on the GPU: {found}"
                + (f"; fix: {fix}" if fix else "")
            )
    if codec == STILL:
        return StillDecoder(limits, input_size, options.max_reduction)
    return VideoDecoder(codec, PyAvBackend(codec, limits), limits)


def _on_gpu(codec: str, limits: ImageLimits, device: Device) -> ImageDecoder:
    fix: Message = ("set ", options_of(DecoderOptions)["decoder"], " to cpu")
    require_gpu(device, expected="a GPU that decodes images", fix=fix)
    if codec == STILL:
        return NvImageCodecDecoder(device, limits)
    return VideoDecoder(codec, NvdecBackend(codec, device), limits)


class NvImageCodecDecoder:
    """JPEG into device memory, by nvImageCodec: nvJPEG, or the hardware decoder where there is one.

    Other formats, and Bayer mosaics, which are demosaiced on the host, go through OpenCV.

    Args:
        device: the GPU.
        limits: how large an image may be.

    Raises:
        MissingDependencyError: nvImageCodec or CuPy is not installed.
        EngineError: it finds no decoder, as on boards that it does not know.
    """

    name = "nvImageCodec"
    ordered = False

    def __init__(self, device: Device, limits: ImageLimits) -> None:
        self._nvimgcodec = require("nvidia.nvimgcodec", purpose="decoding JPEG on the GPU")
        self._cupy = require("cupy", purpose="decoding JPEG on the GPU")
        self._device = device
        self._limits = limits
        self._others = StillDecoder(limits)
        try:
            with self._cupy.cuda.Device(device.cuda_index):
                self._stream = self._cupy.cuda.Stream(non_blocking=True)
            # Chroma is interpolated as libjpeg does it by default.
            self._decoder = self._nvimgcodec.Decoder(
                device_id=device.cuda_index,
                max_num_cpu_threads=1,
                options=":fancy_upsampling=1",
            )
            self._params = self._nvimgcodec.DecodeParams(apply_exif_orientation=False)
        except Exception as error:  # RuntimeError, CUDARuntimeError
            raise library_fault(error, "nvImageCodec cannot be used") from error

    def decode(self, packet: Packet) -> Sequence[Frame]:
        """Return the one Frame, rgb8 in device memory; complete when this returns."""
        view = memoryview(packet.data).cast("B")
        self._limits.check(size=view.nbytes)
        if packet.mosaic or not is_jpeg(view):
            return self._others.decode(packet)
        height, width = image_size(view)
        self._limits.check(size=view.nbytes, height=height, width=width)
        data = bytes(view)
        with self._cupy.cuda.Device(self._device.cuda_index), self._stream:
            # It fills up what was cut off, without a word.
            image = is_whole_jpeg(data) and self._decoder.decode(
                self._nvimgcodec.CodeStream(data),
                params=self._params,
                cuda_stream=self._stream.ptr,
            )
            if not image:
                raise FrameError(
                    f"an image of {view.nbytes} bytes that nvImageCodec cannot decode",
                    expected="a whole JPEG image",
                    fix="check the camera driver; `decoder` cpu decodes what OpenCV can",
                )
            array = self._cupy.from_dlpack(image)
            self._stream.synchronize()
        return (Frame.on_device(array, "rgb8", complete=True, **packet.metadata),)

    def flush(self) -> Sequence[Frame]:
        """Return nothing: no image is held back."""
        return ()

    def lost(self) -> None:
        """Do nothing: each image stands for itself."""

    def given_up(self) -> int:
        """Return 0."""
        return 0

    def close(self) -> None:
        """Let go of the decoder."""
        self._decoder = None


class NvdecBackend:
    """H.264 and HEVC into device memory, by the GPU's decoder (NVDEC) through PyNvVideoCodec.

    The pictures are nv12. A stream with B frames would come out in the wrong order: without them
    (as foxglove_msgs/CompressedVideo demands) a picture comes with its packet.

    Args:
        codec: "h264" or "hevc".
        device: the GPU.

    Raises:
        MissingDependencyError: PyNvVideoCodec or CuPy is not installed.
        EngineError: the driver's video libraries are missing, or NVDEC does not know the codec.
    """

    name = "NVDEC"

    def __init__(self, codec: str, device: Device) -> None:
        self._cupy = require("cupy", purpose="decoding video on the GPU")
        self._device = device
        self._decoder: Any = None
        try:  # importing it loads the driver's libraries: RuntimeError without them
            self._nvc = require("PyNvVideoCodec", purpose="decoding video on the GPU")
            self._codec = getattr(self._nvc.cudaVideoCodec, codec.upper())
            with self._cupy.cuda.Device(device.cuda_index):
                self._stream = self._cupy.cuda.Stream(non_blocking=True)
            self._open()
        except MissingDependencyError:
            raise
        except Exception as error:
            raise library_fault(error, "PyNvVideoCodec cannot be used") from error

    def _open(self) -> None:
        self._decoder = self._nvc.CreateDecoder(
            gpuid=self._device.cuda_index,
            codec=self._codec,
            cudacontext=0,
            cudastream=self._stream.ptr,
            usedevicememory=True,
            latency=self._nvc.DisplayDecodeLatencyType.LOW,
        )

    def decode(self, data: bytes, number: int) -> Sequence[tuple[int, Frame]]:
        """Take a packet; return copies of the pictures that are ready, complete when it returns."""
        buffer = np.frombuffer(data, np.uint8)
        packet = self._nvc.PacketData()
        packet.bsl, packet.bsl_data = buffer.size, buffer.ctypes.data
        packet.pts = number
        packet.decode_flag = self._nvc.VideoPacketFlag.ENDOFPICTURE
        found = []
        try:
            with self._cupy.cuda.Device(self._device.cuda_index), self._stream:
                if self._decoder is None:
                    self._open()
                for picture in self._decoder.Decode(packet):
                    # The decoder writes the next picture into the same memory.
                    array = self._cupy.from_dlpack(picture).copy()
                    # Complete when this returns.
                    frame = Frame.on_device(array, "nv12", complete=True)
                    found.append((picture.getPTS(), frame))
                self._stream.synchronize()
        except FrameError:
            raise
        except Exception as error:
            self._decoder = None  # what state it is in is not known
            raise FrameError(
                f"a packet of {len(data)} bytes that NVDEC cannot decode ({error})",
                expected="the NAL units of one picture",
                fix="check the encoder; `decoder` cpu decodes what FFmpeg can",
            ) from error
        return found

    def flush(self) -> Sequence[tuple[int, Frame]]:
        """Return nothing: without B frames no picture is held back."""
        return ()

    def reset(self) -> None:
        """Do nothing: NVDEC begins anew with a keyframe by itself."""

    def close(self) -> None:
        """Let go of the decoder."""
        self._decoder = None
