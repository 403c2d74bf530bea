# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Which decoder a camera gets; those of the GPU give what those of the CPU give."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from support.gpu import requires_gpu
from support.video import packets, pictures

from yolox_trt.core.decoding import STILL, Packet
from yolox_trt.core.device import Device
from yolox_trt.core.errors import FrameError
from yolox_trt.core.limits import ImageLimits
from yolox_trt.detectors.decoders import DecoderOptions, create_decoder, decoder_gpu
from yolox_trt.engines.cuda_driver import compute_capability
from yolox_trt.kernels.reference.preprocess import to_bgr

LIMITS = ImageLimits()
CPU, GPU = (DecoderOptions(decoder=name) for name in ("cpu", "gpu"))
JPEG = bytes(cv2.imencode(".jpg", pictures(1)[0])[1].tobytes())


@pytest.mark.parametrize(("codec", "name"), [(STILL, "OpenCV"), ("h264", "PyAV"), ("hevc", "PyAV")])
def test_the_cpu_decodes_by_default(codec: str, name: str) -> None:
    pytest.importorskip("av")
    assert create_decoder(codec, DecoderOptions(), LIMITS).name == name


@pytest.mark.skipif(compute_capability() is not None, reason="there is a GPU")
def test_without_a_gpu_one_line_says_why() -> None:
    said: list[str] = []
    assert create_decoder(STILL, GPU, LIMITS, said.append).name == "OpenCV"
    assert said == [
        "image is decoded on the CPU, not on the GPU: no CUDA device 0; fix: set `decoder` to cpu"
    ]


@requires_gpu
def test_jpeg_on_the_gpu_is_that_of_the_cpu() -> None:
    pytest.importorskip("nvidia.nvimgcodec")
    decoder = create_decoder(STILL, GPU, LIMITS, pytest.fail)
    for quality in (60, 95):
        data = cv2.imencode(".jpg", pictures(1)[0], (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
        (frame,) = decoder.decode(Packet(STILL, data.tobytes(), {"stamp_ns": 3}))
        assert (frame.encoding, frame.stamp_ns) == ("rgb8", 3) and frame.device_array is not None
        difference = np.abs(to_bgr(frame.on_host()).astype(int) - cv2.imdecode(data, 1))
        assert difference.max() <= 4
    decoder.close()


@requires_gpu
def test_what_is_no_jpeg_goes_through_the_cpu() -> None:
    pytest.importorskip("nvidia.nvimgcodec")
    decoder = create_decoder(STILL, GPU, LIMITS, pytest.fail)
    png = cv2.imencode(".png", pictures(1)[0])[1].tobytes()
    (frame,) = decoder.decode(Packet(STILL, png))
    assert frame.device_array is None
    with pytest.raises(FrameError, match="nvImageCodec cannot decode"):
        decoder.decode(Packet(STILL, JPEG[: len(JPEG) // 3]))
    with pytest.raises(FrameError, match="pixels"):
        create_decoder(STILL, GPU, ImageLimits(max_megapixels=0.001)).decode(Packet(STILL, JPEG))


@requires_gpu
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_video_on_the_gpu_is_that_of_the_cpu(codec: str) -> None:
    pytest.importorskip("PyNvVideoCodec")
    # NVDEC takes no pictures of less than 144 columns.
    data = packets(codec, height=192, width=256)
    gpu, cpu = (create_decoder(codec, options, LIMITS, pytest.fail) for options in (GPU, CPU))
    for number, each in enumerate(data):
        (frame,) = gpu.decode(Packet(codec, each, {"stamp_ns": number}))
        (expected,) = cpu.decode(Packet(codec, each))
        assert (frame.encoding, frame.stamp_ns) == ("nv12", number)
        assert (frame.height, frame.width) == (192, 256)
        np.testing.assert_array_equal(
            frame.on_host().rows, expected.rows
        )  # the standards are exact
    gpu.close()


@pytest.mark.parametrize(
    ("options", "devices", "gpu", "reason"),
    [
        (CPU, ["gpu:1"], None, ""),
        (GPU, ["gpu:1"], 1, ""),
        (GPU, ["gpu:1", "cpu"], 1, ""),
        (GPU, ["gpu", "dla0", "dla1"], 0, ""),  # the DLAs' memory is that of the GPU beside them
        (GPU, ["gpu", "gpu:1"], None, "on gpu:0 and gpu:1; expected one GPU for both"),
        (GPU, ["cpu"], None, "on no GPU"),
    ],
)
def test_images_are_decoded_where_the_detectors_are(
    options: DecoderOptions, devices: list[str], gpu: int | None, reason: str
) -> None:
    found, why = decoder_gpu(options, [Device.parse(each) for each in devices])
    assert found == gpu
    assert reason in why and bool(reason) == bool(why)
