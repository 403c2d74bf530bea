# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""preprocess.cu against the reference: its code on the host, and the kernel on a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from support import cuda_host
from support.gpu import requires_gpu
from support.layouts import chw_to_hwc4, pack

from yolox_trt.core import ConfigurationError, Frame, Letterbox, ModelError, Preprocessing, Roi
from yolox_trt.core.encodings import ENCODINGS
from yolox_trt.kernels.cuda import descriptors, module
from yolox_trt.kernels.cuda.preprocess import CudaPreprocess, Tile
from yolox_trt.kernels.reference.preprocess import preprocess

IMAGENET = Preprocessing("rgb", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
#: height, width, row padding, Roi, network height, network width. Two sizes of the network, for
#: each of which the kernel is compiled: less than a tile's columns, and one tile and a part.
GEOMETRIES = {
    "identity": (96, 160, 0, None, 96, 160),
    "half": (192, 320, 0, None, 96, 160),
    "double": (48, 80, 0, None, 96, 160),
    "third, odd steps": (96 * 3, 160 * 3, 5, None, 96, 160),
    "2.1, padding below": (100, 202, 0, None, 64, 96),
    "1.9, padding right": (182, 120, 3, None, 96, 160),
    "up, not whole": (50, 70, 1, None, 96, 160),
    "roi": (150, 200, 2, Roi(13, 7, 101, 61), 64, 96),
    "roi at the corner": (90, 120, 0, Roi(27, 29, 93, 61), 64, 96),
    "two by two": (2, 2, 0, None, 64, 96),
    "9 times smaller": (290, 866, 0, None, 64, 96),
    "12 times smaller": (1152, 300, 0, None, 96, 160),
}


WHERE = ["host", pytest.param("gpu", marks=requires_gpu)]


def random_frame(
    encoding: str, height: int, width: int, pad: int = 0, roi: Roi | None = None, seed: int = 0
) -> Frame:
    layout = ENCODINGS[encoding]
    step = width * layout.bytes_per_pixel + pad
    size = int(height * layout.rows_per_height) * step
    data = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    return Frame.view(data, height=height, width=width, encoding=encoding, step=step, roi=roi)


def describe(
    frames: Sequence[Frame],
    addresses: Sequence[int],
    height: int,
    width: int,
    color_order: str,
    resize: str = "letterbox",
) -> np.ndarray:
    buffer = bytearray(descriptors.IMAGE.size * len(frames))
    for index, (frame, address) in enumerate(zip(frames, addresses, strict=True)):
        descriptors.pack_image(
            buffer,
            index * descriptors.IMAGE.size,
            frame,
            Letterbox.of_frame(frame, height, width, resize),
            color_order=color_order,
            data=address,
        )
    return np.frombuffer(buffer, np.uint8)


def stage(data: np.ndarray, lead: int = 0) -> np.ndarray:
    """Copy bytes to `lead` behind a multiple of 128, where the kernel may read around them."""
    buffer = np.full(128 + lead + data.size + descriptors.SOURCE_MARGIN, 255, np.uint8)
    begin = -buffer.ctypes.data % 128 + lead
    buffer[begin : begin + data.size] = data
    return buffer[begin : begin + data.size]


def on_host(
    frames: Sequence[Frame],
    kernel: CudaPreprocess,
    color_order: str,
    lead: int = 1,
    resize: str = "letterbox",
) -> np.ndarray:
    # `lead` bytes behind a line: an odd one shows whether reads are really aligned, and a multiple
    # of four lets the rows be brought into shared memory.
    staged = [stage(frame.data, lead) for frame in frames]
    addresses = [int(data.ctypes.data) for data in staged]
    images = describe(frames, addresses, kernel.height, kernel.width, color_order, resize)
    output = np.zeros(kernel.shape(len(frames)), kernel.dtype)
    output.view(np.uint8).fill(0xCD)
    kernel(images.ctypes.data, output.ctypes.data, len(frames))
    return output


def on_gpu(
    frames: Sequence[Frame], kernel: CudaPreprocess, color_order: str, resize: str = "letterbox"
) -> np.ndarray:
    import cupy

    staged = [
        cupy.asarray(np.append(f.data, np.zeros(descriptors.SOURCE_MARGIN, np.uint8)))
        for f in frames
    ]
    images = cupy.asarray(
        describe(
            frames,
            [s.data.ptr for s in staged],
            kernel.height,
            kernel.width,
            color_order,
            resize,
        )
    )
    output = cupy.full(kernel.shape(len(frames)), 77, kernel.dtype)
    kernel(images.data.ptr, output.data.ptr, len(frames))
    return cupy.asnumpy(output)


def largest_error(got: np.ndarray, frame: Frame, preprocessing: Preprocessing, index: int) -> float:
    """Return the largest difference to the reference in steps of a source pixel's value."""
    height, width = got.shape[2:]
    expected = preprocess(
        frame,
        Letterbox.of_frame(frame, height, width, preprocessing.resize),
        preprocessing,
        dtype=got.dtype,
    )
    step = 1.0 if got.dtype == np.uint8 else np.abs(preprocessing.factors[0])[:, None, None]
    return float(np.abs((got[index].astype(np.float64) - expected) / step).max())


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("encoding", ["bgr8", "nv12", "uyvy"])
@pytest.mark.parametrize("resize", ["centre", "stretch"])
def test_centred_and_stretched(
    monkeypatch: pytest.MonkeyPatch, resize: str, encoding: str, where: str
) -> None:
    run = on_host if where == "host" else on_gpu
    if where == "host":
        cuda_host.install(monkeypatch, reverse=True, capability=90)
    preprocessing = Preprocessing("rgb", 1 / 255, resize=resize)
    for name, (height, width, pad, roi, input_height, input_width) in GEOMETRIES.items():
        frame = random_frame(encoding, height, width, pad, roi)
        kernel = CudaPreprocess(height=input_height, width=input_width, preprocessing=preprocessing)
        got = run([frame], kernel, "rgb", resize=resize)
        assert largest_error(got, frame, preprocessing, 0) <= 1.01, name


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("encoding", descriptors.ENCODING_CODES)
@pytest.mark.sampled(3)
def test_host_one_lsb_at_every_scale(
    monkeypatch: pytest.MonkeyPatch, encoding: str, capability: int
) -> None:
    # The other tests run the threads of a block from the first to the last.
    cuda_host.install(monkeypatch, reverse=True, capability=capability)
    for name, (height, width, pad, roi, input_height, input_width) in GEOMETRIES.items():
        frame = random_frame(encoding, height, width, pad, roi)
        kernel = CudaPreprocess(height=input_height, width=input_width)
        for lead in (1, 12, 100):
            got = on_host([frame], kernel, "bgr", lead)
            error = largest_error(got, frame, Preprocessing(), 0)
            assert error <= 1.0, (name, lead)
            if name == "identity" and not encoding.startswith(("nv12", "uyvy", "yuy2")):
                assert error == 0.0


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("encoding", descriptors.ENCODING_CODES)
def test_host_reads_stay_within_the_margin(
    monkeypatch: pytest.MonkeyPatch, encoding: str, capability: int
) -> None:
    cuda_host.install(monkeypatch, capability=capability)
    widths = (2, 42, 44, 106, 128, 170, 202, 256)
    for width in widths:
        kernel = CudaPreprocess(height=32, width=32)
        frame = random_frame(encoding, 4, width)
        frame = random_frame(encoding, 4, width, pad=-frame.step % 4)
        loaded = module.load("preprocess", **kernel.macros(1))
        read = (ctypes.c_ulonglong * 2)()
        loaded.library.take_read_range(read)
        staged = stage(frame.data, 128)
        table = describe([frame], [staged.ctypes.data], 32, 32, "bgr")
        output = np.zeros(kernel.shape(1), np.float32)
        kernel(table.ctypes.data, output.ctypes.data, 1)
        loaded.library.take_read_range(read)
        begin = int(staged.ctypes.data)
        assert begin // 128 * 128 <= read[0] < begin + frame.data.size
        assert read[1] <= begin + frame.data.size + descriptors.SOURCE_MARGIN


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_host_batch_of_cameras(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    cuda_host.install(monkeypatch)
    frames = [
        random_frame(encoding, 60 + 10 * i, 100 + 30 * i, i, seed=i)
        for i, encoding in enumerate(descriptors.ENCODING_CODES)
    ]
    preprocessing = Preprocessing("rgb") if dtype == "uint8" else IMAGENET
    kernel = CudaPreprocess(height=64, width=96, dtype=dtype, preprocessing=preprocessing)
    got = on_host(frames, kernel, "rgb")
    for index, frame in enumerate(frames):
        # float16 rounds what float32 computes: half a unit in its last place, 2^-9 near 2.6.
        slack = 2.0**-9 / 0.017 if dtype == "float16" else 1e-3
        assert largest_error(got, frame, preprocessing, index) <= 1.0 + slack


@pytest.mark.parametrize(
    ("dtype", "layout", "pack"),
    [
        ("float16", "hwc4", chw_to_hwc4),
        ("int8", "hwc4", chw_to_hwc4),
        ("float16", "chw16", partial(pack, vector=16)),
        ("int8", "chw32", partial(pack, vector=32)),
        ("int8", "nchw", lambda planes: planes),
    ],
)
@pytest.mark.parametrize("encoding", ["bgr8", "rgb8", "nv12"])
@pytest.mark.parametrize("where", WHERE)
def test_dla_layouts(
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    layout: str,
    pack: object,
    encoding: str,
    where: str,
) -> None:
    if where == "host":
        cuda_host.install(monkeypatch)
    frame = random_frame(encoding, 80, 130)
    scale = 255.0 / 127.0 if dtype == "int8" else 1.0
    kernel = CudaPreprocess(height=64, width=96, dtype=dtype, layout=layout, input_scale=scale)
    got = (on_host if where == "host" else on_gpu)([frame], kernel, "bgr")
    letterbox = Letterbox.of_frame(frame, 64, 96)
    expected = preprocess(frame, letterbox, dtype=dtype, input_scale=scale)[None]
    packed = pack(expected)  # type: ignore[operator]
    got = got.reshape(packed.shape)
    assert np.abs(got.astype(np.float32) - packed.astype(np.float32)).max() <= 1.0
    # Beyond the image's three channels every element was written, with zero.
    if layout != "nchw":
        assert not got[..., 3:].any()


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("encoding", ["bgr8", "nv12", "mono8"])
def test_host_sampled_rows_are_all_that_is_read(
    monkeypatch: pytest.MonkeyPatch, encoding: str, capability: int
) -> None:
    cuda_host.install(monkeypatch, capability=capability)
    kernel = CudaPreprocess(height=64, width=96)
    for seed, (height, width) in enumerate([(200, 300), (301, 452), (190, 280), (1, 40)]):
        if encoding == "nv12" and height % 2:
            continue
        frame = random_frame(encoding, height, width, seed=seed)
        expected = on_host([frame], kernel, "bgr")
        letterbox = Letterbox.of_frame(frame, 64, 96)
        rows = descriptors.sampled_rows(letterbox)
        assert len(rows) == 2 * letterbox.resized_height
        planes = [rows] if encoding != "nv12" else [rows, frame.height + rows // 2]
        source = frame.data.reshape(-1, frame.step)
        picked = np.concatenate([source[index].ravel() for index in planes])
        staged = stage(picked)
        table = bytearray(descriptors.IMAGE.size)
        address = staged.ctypes.data
        descriptors.pack_image(
            table,
            0,
            frame,
            letterbox,
            color_order="bgr",
            data=address,
            chroma=address + len(rows) * frame.step,
            compact=True,
        )
        images = np.frombuffer(table, np.uint8)
        output = np.zeros(kernel.shape(1), kernel.dtype)
        kernel(images.ctypes.data, output.ctypes.data, 1)
        np.testing.assert_array_equal(output, expected)


def test_host_row_pitch_leaves_padding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host.install(monkeypatch)
    frame = random_frame("bgr8", 80, 130)
    kernel = CudaPreprocess(height=64, width=90, row_pitch=96)
    got = on_host([frame], kernel, "bgr")
    assert got.shape == (1, 3, 64, 96)
    assert (got[..., 90:].view(np.uint8) == 0xCD).all()
    assert largest_error(np.ascontiguousarray(got[..., :90]), frame, Preprocessing(), 0) <= 1.0


@pytest.mark.parametrize(
    "tile",
    [
        (1, 1, 1024, 1, 1),
        (2, 16, 8192, 4, 8),
        (8, 4, 40960, 2, 2),
        (4, 32, 16384, 1, 4),
    ],
)
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.sampled(3)
def test_host_tiles_agree(monkeypatch: pytest.MonkeyPatch, tile: Tile, capability: int) -> None:
    cuda_host.install(monkeypatch, capability=capability)
    frame = random_frame("nv12", 90, 144)
    expected = on_host([frame], CudaPreprocess(height=96, width=160), "bgr")
    for lead in (1, 4):
        got = on_host([frame], CudaPreprocess(height=96, width=160, tile=tile), "bgr", lead)
        np.testing.assert_array_equal(got, expected)


def test_host_small_and_large_launches_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host.install(monkeypatch)
    monkeypatch.setattr("yolox_trt.kernels.cuda.preprocess.SMALL_LAUNCH", 96 * 160)
    frame = random_frame("bgr8", 90, 144)
    kernel = CudaPreprocess(height=96, width=160)
    small, large = (on_host([frame] * n, kernel, "bgr", lead=0) for n in (1, 2))
    assert len(kernel._kernels) == 2
    np.testing.assert_array_equal(np.concatenate([small, small]), large)


def test_host_an_input_of_too_many_elements_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host.install(monkeypatch)
    kernel = CudaPreprocess(height=64, width=96)
    images = (1 << 32) // (3 * 64 * 96)
    with pytest.raises(ConfigurationError, match=f"at most {images} images"):
        kernel(0, 0, images + 1)


def test_unknown_input_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="float64"):
        CudaPreprocess(height=64, width=64, dtype="float64")
    with pytest.raises(ConfigurationError, match="nhwc"):
        CudaPreprocess(height=64, width=64, layout="nhwc")
    with pytest.raises(ConfigurationError, match="row pitch"):
        CudaPreprocess(height=64, width=64, row_pitch=32)
    with pytest.raises(ModelError, match="uint8"):
        CudaPreprocess(height=64, width=64, dtype="uint8", preprocessing=IMAGENET)


@requires_gpu
@pytest.mark.parametrize("encoding", descriptors.ENCODING_CODES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_gpu_one_lsb_at_every_scale(encoding: str, dtype: str) -> None:
    for name, (height, width, pad, roi, input_height, input_width) in GEOMETRIES.items():
        frame = random_frame(encoding, height, width, pad, roi)
        kernel = CudaPreprocess(height=input_height, width=input_width, dtype=dtype)
        got = on_gpu([frame], kernel, "bgr")
        assert largest_error(got, frame, Preprocessing(), 0) <= 1.0, name


@requires_gpu
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gpu_batch_of_cameras(dtype: str) -> None:
    frames = [
        random_frame(encoding, 600 + 10 * i, 1000 + 30 * i, i, seed=i)
        for i, encoding in enumerate(descriptors.ENCODING_CODES)
    ]
    kernel = CudaPreprocess(height=416, width=416, dtype=dtype, preprocessing=IMAGENET)
    got = on_gpu(frames, kernel, "rgb")
    for index, frame in enumerate(frames):
        slack = 2.0**-9 / 0.017 if dtype == "float16" else 1e-3
        assert largest_error(got, frame, IMAGENET, index) <= 1.0 + slack
