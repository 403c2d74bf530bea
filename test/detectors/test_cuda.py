# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CudaDetector: on the host with the kernels' own code, and on a GPU with graphs."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from support import cuda_host
from support.executors import Recorder, check_counters, wait_until
from support.gpu import requires_gpu

from yolox_trt.core import (
    ConfigurationError,
    Detections,
    Device,
    EngineError,
    Frame,
    FrameError,
    HeadLayout,
    HeadLevel,
    Letterbox,
    ModelSpec,
    PostprocessOptions,
    Roi,
)
from yolox_trt.core.encodings import ENCODINGS, lookup_on_device
from yolox_trt.core.faults import DeviceBrokenError, DeviceBusyError, OutOfMemoryError
from yolox_trt.detectors.cuda import CudaDetector
from yolox_trt.detectors.detector import Detector
from yolox_trt.detectors.device_memory import in_order
from yolox_trt.engines.engine import Engine
from yolox_trt.executor import (
    DeviceStatus,
    DropReason,
    InferenceExecutor,
    SchedulerOptions,
    StreamConfig,
)
from yolox_trt.kernels.cuda import descriptors
from yolox_trt.kernels.reference.postprocess import Postprocessor
from yolox_trt.kernels.reference.preprocess import preprocess

H, W, CLASSES = 96, 160, 3
SPEC = ModelSpec(
    *("images", H, W, None, CLASSES, HeadLayout.UNDECODED, ("output",)),
    levels=tuple(HeadLevel(s, H // s, W // s) for s in (8, 16, 32)),
)


def network(images: Any, values: Any, xp: Any) -> Any:
    """Stand for a network: each image's mean shifts its scores, so that images do not mix."""
    mean = images.reshape(len(images), -1).mean(axis=1) / 255.0
    result = values[: len(images)].copy()
    result[:, :, 4] = xp.minimum(result[:, :, 4], 0.5 + 0.5 * mean[:, None])
    return result.astype(xp.float32)


def make_values(batch: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    anchors = SPEC.num_anchors
    values = np.empty((batch, anchors, 5 + CLASSES), np.float32)
    values[..., :2] = rng.uniform(-0.5, 1.5, (batch, anchors, 2))
    values[..., 2:4] = rng.normal(1.2, 0.6, (batch, anchors, 2))
    values[..., 4:] = rng.uniform(0, 1, (batch, anchors, 1 + CLASSES))
    return values


class FakeNetwork(Engine):
    """A CUDA engine of array operations; on the host its arrays are HostArrays."""

    memory: Literal["host", "cuda"] = "cuda"
    refusal = ""

    @property
    def capture_refusal(self) -> str:
        return super().capture_refusal if self.device.kind == "dla" else self.refusal

    def __init__(self, xp: Any, max_batch: int = 3, device: str = "gpu") -> None:
        self.xp = xp
        self.device = Device.parse(device)
        self.spec = SPEC
        self.max_batch = max_batch
        make = cuda_host.host_array if xp is np else xp.asarray
        self.values = make(make_values(max_batch))
        self.input = make(np.zeros((max_batch, 3, H, W), np.float32))
        self.outputs = {"output": make(np.zeros_like(make_values(max_batch)))}
        self.fails: Exception | None = None
        self.closed = False

    def run(self, batch: int, stream: Any = None) -> None:
        if self.fails is not None:
            raise self.fails
        self.outputs["output"][:batch] = network(self.input[:batch], self.values, self.xp)

    def close(self) -> None:
        self.closed = True


def random_frames(seed: int = 0) -> list[Frame]:
    rng = np.random.default_rng(seed)
    frames = []
    for index, encoding in enumerate(("bgr8", "nv12", "uyvy")):
        layout = ENCODINGS[encoding]
        height, width = 120 + 60 * index, 200 + 44 * index
        step = width * layout.bytes_per_pixel + 4 * index
        size = int(height * layout.rows_per_height) * step
        top = int(rng.integers(60, 256))
        data = rng.integers(0, top, size, dtype=np.uint8)
        roi = Roi(31, 17, 120, 91) if index == 1 else None
        frames.append(
            Frame.view(data, height=height, width=width, encoding=encoding, step=step, roi=roi)
        )
    return frames


OPTIONS = [
    PostprocessOptions(0.5, 0.5),
    PostprocessOptions(0.4, 0.6, class_agnostic=True, max_detections=40),
    PostprocessOptions(0.6, class_thresholds={1: 0.2}),
]


def expected_detections(
    frames: Sequence[Frame], options: Sequence[PostprocessOptions]
) -> list[Detections]:
    letterboxes = [Letterbox.of_frame(frame, H, W) for frame in frames]
    images = np.stack([preprocess(f, b) for f, b in zip(frames, letterboxes, strict=True)])
    outputs = {"output": network(images, make_values(3), np)}
    return [
        Postprocessor(SPEC)(outputs, index, letterbox, option)
        for index, (letterbox, option) in enumerate(zip(letterboxes, options, strict=True))
    ]


def assert_same(got: Sequence[Detections], expected: Sequence[Detections]) -> None:
    for one, other in zip(got, expected, strict=True):
        assert len(one) == len(other) > 3
        np.testing.assert_array_equal(one.class_ids, other.class_ids)
        # The mean of an image differs by what preprocessing may: much less than 1 of 255.
        np.testing.assert_allclose(one.scores, other.scores, atol=2e-3)
        np.testing.assert_allclose(one.boxes, other.boxes, rtol=1e-5, atol=1e-2)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> type[FakeNetwork]:
    cuda_host.install(monkeypatch)
    return FakeNetwork


def test_is_a_detector(host: type[FakeNetwork]) -> None:
    detector = CudaDetector(host(np), cuda_graph=False)
    assert isinstance(detector, Detector)
    assert (detector.max_batch, detector.device) == (3, Device("gpu"))
    assert detector.max_calls == 2
    assert CudaDetector(host(np), profile=True).max_calls == 1


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("copy_threads", [1, 3])
def test_host_equals_reference(host: type[FakeNetwork], mapped: bool, copy_threads: int) -> None:
    detector = CudaDetector(host(np), cuda_graph=False, mapped=mapped, copy_threads=copy_threads)
    for seed in range(3):
        frames = random_frames(seed)
        assert_same(detector.detect(frames, OPTIONS), expected_detections(frames, OPTIONS))
    assert_same(
        detector.detect(frames[:1], OPTIONS[:1]), expected_detections(frames[:1], OPTIONS[:1])
    )


@pytest.mark.parametrize("worth_threads", [0, 1 << 30])
def test_host_large_frames_are_copied_in_parts(
    host: type[FakeNetwork], monkeypatch: pytest.MonkeyPatch, worth_threads: int
) -> None:
    monkeypatch.setattr("yolox_trt.detectors.staging._WORTH_THREADS", worth_threads)
    rng = np.random.default_rng(1)
    frames = [Frame.from_array(rng.integers(0, 256, (1100, 1100, 3), dtype=np.uint8))] * 2
    detector = CudaDetector(host(np), cuda_graph=False, copy_threads=4)
    got = detector.detect(frames, OPTIONS[:2])
    assert_same(got, expected_detections(frames, OPTIONS[:2]))


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("encoding", ["bgr8", "nv12", "uyvy"])
def test_host_only_sampled_rows_of_a_strong_downscale_are_copied(
    host: type[FakeNetwork], monkeypatch: pytest.MonkeyPatch, encoding: str, mapped: bool
) -> None:
    height, width = 640, 960  # six times the network's
    layout = ENCODINGS[encoding]
    step = width * layout.bytes_per_pixel
    size = int(height * layout.rows_per_height) * step
    data = np.random.default_rng(2).integers(0, 256, size, dtype=np.uint8)
    detector = CudaDetector(host(np), cuda_graph=False, mapped=mapped)
    for roi in (None, Roi(17, 31, 900, 600)):
        frame = Frame.view(data, height=height, width=width, encoding=encoding, step=step, roi=roi)
        letterbox = Letterbox.of_frame(frame, H, W)
        slot = detector._slots[detector._numbers % 2]
        parts = detector._stager.plan(slot, [frame], [letterbox])
        planes = 2 if encoding == "nv12" else 1
        assert [address.compact for address in parts.addresses] == [True]
        # Two rows of each plane for each of the network's rows, and margins.
        rows = planes * 2 * letterbox.resized_height
        assert parts.size <= rows * step + planes * 512
        (got,) = detector.detect([frame], OPTIONS[:1])
        with monkeypatch.context() as patch:
            patch.setattr("yolox_trt.detectors.staging._WORTH_PICKING", 0.0)
            assert not detector._stager.plan(slot, [frame], [letterbox]).addresses[0].compact
            (expected,) = detector.detect([frame], OPTIONS[:1])
        assert len(got) > 3
        np.testing.assert_array_equal(got.boxes, expected.boxes)
        np.testing.assert_array_equal(got.scores, expected.scores)


def test_host_larger_frames_leave_what_graphs_read_in_place(host: type[FakeNetwork]) -> None:
    detector = CudaDetector(host(np), cuda_graph=False)
    frames = random_frames()
    slot = detector._slots[0]
    detector.detect(frames[:1], OPTIONS[:1])
    before = (slot.images, slot.posts, slot.thresholds_address, slot.host.size)
    detector.detect(frames[:1], OPTIONS[:1])  # the other slot's turn
    step = 16_000
    data = np.full(150 * step, 90, np.uint8)
    large = Frame.view(data, height=150, width=240, encoding="bgr8", step=step)
    for _ in range(2):
        detector.detect([large], OPTIONS[:1])
    after = (slot.images, slot.posts, slot.thresholds_address, slot.host.size)
    assert after[:3] == before[:3]
    assert after[3] > before[3]
    assert_same(detector.detect(frames, OPTIONS), expected_detections(frames, OPTIONS))


def test_host_pinned_frames_are_not_copied(
    host: type[FakeNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    import yolox_trt.detectors.staging as staging

    detector = CudaDetector(host(np), cuda_graph=False)
    runtime = detector._cupy.cuda.runtime
    monkeypatch.setattr(runtime, "pointerGetAttributes", lambda _: SimpleNamespace(type=1))
    copies: list[int] = []
    original = np.copyto
    monkeypatch.setattr(
        staging.np, "copyto", lambda a, b: (copies.append(b.size), original(a, b))[1]
    )
    frames = random_frames()
    assert_same(detector.detect(frames, OPTIONS), expected_detections(frames, OPTIONS))
    assert not copies


class DeviceArray:
    """An array that only CUDA's array interface reaches, as Numba's."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.__cuda_array_interface__ = {**values.__array_interface__, "version": 3}

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        return self.values

    def copy_to_host(self) -> np.ndarray:
        return self.values.copy()


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("room", [0, 287, 288])
def test_host_frames_on_the_device_are_read_there(
    host: type[FakeNetwork], monkeypatch: pytest.MonkeyPatch, room: int, mapped: bool
) -> None:
    detector = CudaDetector(host(np), cuda_graph=False, mapped=mapped)
    rng = np.random.default_rng(4)
    shapes = {"bgr8": (120, 200, 3), "mono8": (90, 140), "rgba8": (80, 96, 4)}
    arrays = [
        cuda_host.allocated(rng.integers(0, 256, shape, dtype=np.uint8))
        for shape in shapes.values()
    ]
    frames = [Frame.on_device(DeviceArray(a), e) for a, e in zip(arrays, shapes, strict=True)]
    wanted = [Frame.from_array(a, e) for a, e in zip(arrays, shapes, strict=True)]
    asked: list[int] = []
    plan = detector._stager.plan
    copies: list[int] = []
    monkeypatch.setattr(
        detector._stager,
        "plan",
        lambda *given: (parts := plan(*given), copies.append(len(parts.on_device)))[0],
    )
    sizes = iter([a.size for a in arrays] * 2)
    monkeypatch.setattr(
        "yolox_trt.detectors.staging.allocation_end",
        lambda address: (asked.append(address), address + next(sizes) + room)[1],
    )
    assert_same(detector.detect(frames, OPTIONS), expected_detections(wanted, OPTIONS))
    # Two of them among one on the host.
    mixed = [frames[0], wanted[1], frames[2]]
    sizes = iter([arrays[0].size, arrays[2].size])
    assert_same(detector.detect(mixed, OPTIONS), expected_detections(wanted, OPTIONS))
    assert copies == ([0, 0] if room == 288 else [3, 2])
    assert [frame.on_host().rows.tolist() for frame in frames] == [a.tolist() for a in arrays]
    with pytest.raises(FrameError, match=r"strides \(600, 6, 1\)"):
        Frame.on_device(DeviceArray(arrays[0][:, ::2]), "bgr8")
    detector.device = Device("gpu", 1)
    with pytest.raises(FrameError, match="expected one on device 1"):
        detector.detect(frames[:1], OPTIONS[:1])


def in_allocation(values: np.ndarray, room: int) -> np.ndarray:
    """Copy an image into an allocation that ends `room` bytes behind it."""
    memory = cuda_host.allocated(np.full(values.size + room, 0xCD, np.uint8))
    memory[: values.size] = values.ravel()
    return memory[: values.size].reshape(values.shape)


@pytest.mark.parametrize("room", [0, 288])
def test_host_nv12_on_the_device_keeps_its_chroma(
    host: type[FakeNetwork], monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr("yolox_trt.detectors.staging.allocation_end", cuda_host.allocation_end)
    detector = CudaDetector(host(np), cuda_graph=False)
    rng = np.random.default_rng(5)
    images = [rng.integers(16, 235, (h * 3 // 2, w), dtype=np.uint8) for h, w in ((96, 160),) * 2]
    bgr = rng.integers(0, 256, (60, 100, 3), dtype=np.uint8)
    frames = [
        Frame.on_device(DeviceArray(in_allocation(images[0], room)), "nv12"),
        Frame.on_device(DeviceArray(in_allocation(bgr, room)), "bgr8"),
        Frame.on_device(DeviceArray(in_allocation(images[1], room)), "nv12", roi=Roi(20, 31, 9, 9)),
    ]
    nv12 = {"height": 96, "width": 160, "encoding": "nv12"}
    wanted = [
        Frame.view(images[0], **nv12),
        Frame.from_array(bgr),
        Frame.view(images[1], **nv12, roi=Roi(20, 31, 9, 9)),
    ]
    detector.detect(frames, OPTIONS)
    for index, frame in enumerate(wanted):
        reference = preprocess(frame, Letterbox.of_frame(frame, H, W))
        assert np.abs(np.asarray(detector.engine.input[index]) - reference).max() <= 1


@pytest.mark.parametrize("columns", [slice(0, 256), slice(256, 512), slice(100, 200)])
def test_host_a_crop_of_columns_ends_with_its_last_pixel(
    host: type[FakeNetwork], monkeypatch: pytest.MonkeyPatch, columns: slice
) -> None:
    # Its last row is not followed by a step's padding: the allocation may end there.
    monkeypatch.setattr("yolox_trt.detectors.staging.allocation_end", cuda_host.allocation_end)
    detector = CudaDetector(host(np), cuda_graph=False)
    image = np.random.default_rng(6).integers(0, 256, (128, 512, 3), dtype=np.uint8)
    crop = in_allocation(image, 0)[:, columns]
    detector.detect([Frame.on_device(DeviceArray(crop), "bgr8")], OPTIONS[:1])
    frame = Frame.from_array(crop)
    reference = preprocess(frame, Letterbox.of_frame(frame, H, W))
    assert np.abs(np.asarray(detector.engine.input[0]) - reference).max() <= 1


class WrittenArray(cuda_host.HostArray):
    """A CuPy array, as far as frames and detectors look at it."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.__array_interface__, "version": 3}


@pytest.mark.parametrize("complete", [False, True])
def test_host_an_array_is_read_behind_the_work_that_writes_it(
    host: type[FakeNetwork], monkeypatch: pytest.MonkeyPatch, complete: bool
) -> None:
    monkeypatch.setattr("yolox_trt.detectors.staging.allocation_end", cuda_host.allocation_end)
    detector = CudaDetector(host(np), cuda_graph=False)
    log: list[tuple[str, Any]] = []
    event = SimpleNamespace(
        record=lambda stream: log.append(("recorded on", stream)),
        synchronize=lambda: log.append(("waited for", None)),
    )
    cuda = detector._cupy.cuda
    monkeypatch.setattr(cuda, "Event", lambda **_: event)
    producer = threading.local()
    producer.stream = "the producer's"
    monkeypatch.setattr(
        cuda, "get_current_stream", lambda: getattr(producer, "stream", "another thread's")
    )
    waited = detector.stream.wait_event
    monkeypatch.setattr(
        type(detector.stream),
        "wait_event",
        lambda _, given: log.append(("waits", None)) if given is event else waited(given),
    )
    pixels = cuda_host.allocated(np.zeros((60, 100, 3), np.uint8).view(WrittenArray))
    frame = Frame.on_device(pixels, "bgr8", complete=complete)
    expected = [] if complete else [("recorded on", "the producer's"), ("waits", None)]
    detector.detect([frame], OPTIONS[:1])
    assert log == expected
    # An executor's worker has another current stream: the order is taken where it is submitted.
    log.clear()
    taken = in_order(frame)
    worker = threading.Thread(target=detector.detect, args=([taken], OPTIONS[:1]))
    worker.start()
    worker.join()
    assert log == expected


def test_host_an_executor_takes_the_order_where_a_frame_is_submitted(
    host: type[FakeNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def note(frame: Frame) -> Frame:
        asked.append(threading.current_thread().name)
        return frame

    monkeypatch.setattr("yolox_trt.executor.inference_executor.in_order", note)
    executor = InferenceExecutor([CudaDetector(host(np), cuda_graph=False)])
    executor.add_stream(StreamConfig(id="front"), on_result=lambda _: None)
    array = DeviceArray(np.zeros((60, 100, 3), np.uint8))
    for complete in (False, True):
        frame = Frame.on_device(array, "bgr8", complete=complete, stream_id="front")
        executor.submit(frame)
    assert asked == [threading.current_thread().name]
    executor.close()


def test_host_two_calls_under_way(host: type[FakeNetwork]) -> None:
    detector = CudaDetector(host(np), cuda_graph=False)
    first, second = random_frames(1), random_frames(2)
    one = detector.enqueue(first, OPTIONS)
    two = detector.enqueue(second, OPTIONS)
    assert detector.in_flight == 2
    with pytest.raises(DeviceBusyError, match="under way"):
        detector.enqueue(first, OPTIONS)
    with pytest.raises(RuntimeError, match="oldest"):
        detector.collect(two)
    assert_same(detector.collect(one), expected_detections(first, OPTIONS))
    assert_same(detector.collect(two), expected_detections(second, OPTIONS))
    with pytest.raises(RuntimeError, match="oldest"):
        detector.collect(two)


def test_host_more_detections_than_room(host: type[FakeNetwork]) -> None:
    detector = CudaDetector(host(np), cuda_graph=False, max_detections=5)
    frames = random_frames()
    options = [replace(option, max_detections=200) for option in OPTIONS]
    assert_same(detector.detect(frames, options), expected_detections(frames, options))


def test_host_bayer_goes_through_the_cpu(
    host: type[FakeNetwork], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("cv2")
    rng = np.random.default_rng(5)
    mosaic = rng.integers(0, 256, (120, 200), dtype=np.uint8)
    frame = Frame.from_array(mosaic, "bayer_rggb8")
    detector = CudaDetector(host(np), cuda_graph=False)
    for _ in range(2):
        got = detector.detect([frame], OPTIONS[:1])
    assert_same(got, expected_detections([frame], OPTIONS[:1]))
    assert sum("demosaiced" in record.message for record in caplog.records) == 1


def test_host_a_mosaic_on_the_device_is_fetched(host: type[FakeNetwork]) -> None:
    detector = CudaDetector(host(np), cuda_graph=False)
    mosaic = np.random.default_rng(7).integers(0, 256, (96, 160), dtype=np.uint8)
    frame = Frame.view(mosaic, height=96, width=160, encoding="bayer_rggb8")
    there = replace(frame, data=np.empty(0, np.uint8), device_array=DeviceArray(mosaic))
    inputs = []
    for each in (frame, there):
        detector.detect([each], OPTIONS[:1])
        inputs.append(np.array(detector.engine.input[0]))
    np.testing.assert_array_equal(*inputs)


def test_images_on_a_device_have_the_encodings_of_the_kernels() -> None:
    for name, layout in ENCODINGS.items():
        if name in descriptors.ENCODING_CODES:
            assert lookup_on_device(name) is layout
        else:
            with pytest.raises(FrameError):
                lookup_on_device(name)


def test_host_errors_leave_it_usable(host: type[FakeNetwork]) -> None:
    engine = host(np)
    detector = CudaDetector(engine, cuda_graph=False)
    frames = random_frames()
    with pytest.raises(ValueError, match="expected 1 to 3"):
        detector.detect(frames * 2, OPTIONS * 2)
    with pytest.raises(FrameError, match="32FC1"):
        detector.detect([replace(frames[0], encoding="32FC1")], OPTIONS[:1])
    engine.fails = cuda_host.OutOfMemoryError("no room")
    with pytest.raises(OutOfMemoryError, match="running on gpu failed: no room"):
        detector.detect(frames, OPTIONS)
    engine.fails = cuda_host.CUDARuntimeError(719)
    with pytest.raises(DeviceBrokenError, match="running on gpu failed: CUDA error 719"):
        detector.detect(frames, OPTIONS)
    engine.fails = cuda_host.CUDARuntimeError(1)
    with pytest.raises(EngineError, match="CUDA error 1") as caught:
        detector.detect(frames, OPTIONS)
    assert type(caught.value) is EngineError
    engine.fails = None
    values = engine.values[1, 5, 6].copy()
    engine.values[1, 5, 6] = np.nan
    with pytest.raises(EngineError, match="NaN"):
        detector.detect(frames, OPTIONS)
    engine.values[1, 5, 6] = values
    assert_same(detector.detect(frames, OPTIONS), expected_detections(frames, OPTIONS))
    detector.close()
    assert engine.closed
    with pytest.raises(EngineError, match="closed"):
        detector.detect(frames, OPTIONS)


def big_frame() -> Frame:
    step = 16_000
    data = np.random.default_rng(8).integers(0, 200, 150 * step, dtype=np.uint8)
    return Frame.view(data, height=150, width=240, encoding="bgr8", step=step)


def refuse_allocations(
    monkeypatch: pytest.MonkeyPatch, detector: CudaDetector, where: str, first: int = 1
) -> None:
    """Let the device's or the pinned memory be full from the `first` allocation on."""
    calls = itertools.count(1)

    def refusing(original: Any) -> Any:
        def allocate(*arguments: Any) -> Any:
            if next(calls) >= first:
                raise cuda_host.OutOfMemoryError("no room")
            return original(*arguments)

        return allocate

    cupy = detector._cupy
    owner, name = (cupy, "empty") if where == "device" else (cupy.cuda, "alloc_pinned_memory")
    monkeypatch.setattr(owner, name, refusing(getattr(owner, name)))


@pytest.mark.parametrize("where", ["device", "pinned"])
def test_host_no_room_for_a_larger_frame(
    host: type[FakeNetwork], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The buffers that are there after it are those that were asked for, or none."""
    detector = CudaDetector(host(np), cuda_graph=False)
    frames = random_frames()
    for _ in range(2):
        detector.detect(frames[:1], OPTIONS[:1])
    slot = detector._slots[detector._numbers % 2]
    with monkeypatch.context() as patch:
        refuse_allocations(patch, detector, where)
        for _ in range(2):  # the second time, too: nothing that was freed is used
            with pytest.raises(OutOfMemoryError):
                detector.detect([big_frame()], OPTIONS[:1])
            assert (slot.host.size, slot.address) == (0, 0)
    got = detector.detect([big_frame()], OPTIONS[:1])
    assert_same(got, expected_detections([big_frame()], OPTIONS[:1]))
    assert_same(detector.detect(frames, OPTIONS), expected_detections(frames, OPTIONS))


@pytest.mark.parametrize(("where", "first"), [("device", 1), ("pinned", 1), ("pinned", 2)])
def test_host_no_room_for_more_detections(
    host: type[FakeNetwork], monkeypatch: pytest.MonkeyPatch, where: str, first: int
) -> None:
    detector = CudaDetector(host(np), cuda_graph=False, max_detections=5)
    frames = random_frames()
    few = [replace(option, max_detections=5) for option in OPTIONS]
    many = [replace(option, max_detections=200) for option in OPTIONS]
    detector.detect(frames, few)
    with monkeypatch.context() as patch:
        refuse_allocations(patch, detector, where, first)
        with pytest.raises(OutOfMemoryError):
            detector.detect(frames, many)
    size = detector._postprocess.dtype.itemsize
    assert detector._postprocess.max_detections == 5
    assert {slot.results.shape for slot in detector._slots} == {(3, size)}
    assert detector._postprocess.results.nbytes == 3 * size
    assert_same(detector.detect(frames, few), expected_detections(frames, few))
    assert_same(detector.detect(frames, many), expected_detections(frames, many))


@pytest.mark.parametrize("top", [82, 84, 86])
def test_host_a_chroma_plane_whose_row_0_would_lie_at_the_buffers_start(
    host: type[FakeNetwork], top: int
) -> None:
    """At 84 it does: 42 chroma rows before the first that is copied, which lies 42 rows from the
    start: behind the 40 luma rows of the Roi and a margin that rounds up to two rows."""
    data = np.random.default_rng(4).integers(0, 200, 300 * 256, dtype=np.uint8)
    roi = Roi(0, top, 256, 40)
    frame = Frame.view(data, height=200, width=256, encoding="nv12", step=256, roi=roi)
    detector = CudaDetector(host(np), cuda_graph=False)
    slot = detector._slots[0]
    (address,) = detector._stager.plan(slot, [frame], [Letterbox.of_frame(frame, H, W)]).addresses
    assert (address.chroma == slot.address) == (top == 84)
    detector.detect([frame], OPTIONS[:1])
    expected = preprocess(frame, Letterbox.of_frame(frame, H, W))
    assert np.abs(np.asarray(detector.engine.input[0]) - expected).max() <= 1.01


def test_host_a_copy_that_fails_is_waited_for(
    host: type[FakeNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has been enqueued still reads the frames; they are handed back after it."""
    detector = CudaDetector(host(np), cuda_graph=False, copy_threads=1)
    waited: list[str] = []
    stager = detector._stager
    monkeypatch.setattr(stager._copy_stream, "synchronize", lambda: waited.append("copies"))
    copies = itertools.count(1)
    original = np.copyto

    def copyto(target: Any, source: Any) -> None:
        if next(copies) == 2:
            raise MemoryError("no room")
        original(target, source)

    monkeypatch.setattr("yolox_trt.detectors.staging.np.copyto", copyto)
    with pytest.raises(EngineError, match="no room"):
        detector.detect(random_frames(), OPTIONS)
    assert waited == ["copies"]


def test_host_a_detector_that_cannot_be_made_leaves_nothing(
    host: type[FakeNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    engine = host(np)

    def refuse(*_: Any, **__: Any) -> None:
        raise cuda_host.OutOfMemoryError("no room")

    monkeypatch.setattr("yolox_trt.detectors.cuda.Slot", refuse)
    with pytest.raises(OutOfMemoryError, match="setting up"):
        CudaDetector(engine, copy_threads=3)
    assert engine.closed
    assert set(threading.enumerate()) <= before


def test_host_an_engines_own_error_is_its_own_cause_of_nothing(host: type[FakeNetwork]) -> None:
    engine = host(np)
    detector = CudaDetector(engine, cuda_graph=False)
    engine.fails = EngineError("TensorRT refused the run", expected="x", fix="y")
    with pytest.raises(EngineError, match="refused the run") as raised:
        detector.detect(random_frames(), OPTIONS)
    assert raised.value.__cause__ is None


def test_host_an_engines_error_costs_the_executor_one_device(host: type[FakeNetwork]) -> None:
    engine = host(np)
    detector = CudaDetector(engine, cuda_graph=False)
    recorder = Recorder()
    options = SchedulerOptions(backoff=0.05, backoff_max=0.05, watchdog=60.0)
    with InferenceExecutor([detector], max_batch=1, options=options) as executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(30.0)
        # In a call, then in the restart.
        engine.fails = EngineError("TensorRT refused the run", expected="x", fix="y")
        executor.submit(replace(random_frames()[0], stream_id="a"))
        assert wait_until(lambda: executor.snapshot().devices[detector.device].errors >= 2)
        assert recorder.drops["a"][0][1] is DropReason.FAILED
        engine.fails = None
        assert wait_until(
            lambda: executor.snapshot().devices[detector.device].status is DeviceStatus.IN_SERVICE
        )
        executor.submit(replace(random_frames()[0], stream_id="a"))
        assert recorder.wait(lambda: len(recorder.results["a"]) == 1)


def test_host_options_of_another_model_cost_their_stream_alone(host: type[FakeNetwork]) -> None:
    detector = CudaDetector(host(np), cuda_graph=False)
    recorder = Recorder()
    wrong = PostprocessOptions(class_thresholds={7: 0.2})
    with InferenceExecutor([detector], max_batch=1) as executor:
        config = StreamConfig(id="other", model="larger", allow_model_change=True, options=wrong)
        executor.add_stream(config, recorder.on_result, recorder.on_drop)
        executor.add_stream(StreamConfig(id="a"), recorder.on_result, recorder.on_drop)
        for name in ("b", "a"):
            with pytest.raises(ConfigurationError, match="class_thresholds for class 7"):
                if name == "a":
                    executor.update_stream("a", options=wrong)
                else:
                    executor.add_stream(StreamConfig(id=name, options=wrong), recorder.on_result)
        assert executor.wait_started(30.0)
        for name in ("other", "a"):
            executor.submit(replace(random_frames()[0], stream_id=name))
        assert recorder.wait(lambda: bool(recorder.results["a"] and recorder.drops["other"]))
        assert recorder.drops["other"][0][1] is DropReason.MALFORMED
        assert executor.snapshot().devices[detector.device].errors == 0


def test_host_overflow_is_counted(
    host: type[FakeNetwork], caplog: pytest.LogCaptureFixture
) -> None:
    detector = CudaDetector(host(np), cuda_graph=False, max_candidates=64)
    options = [PostprocessOptions(0.01, 1.0)]
    for _ in range(2):
        assert len(detector.detect(random_frames()[:1], options)[0]) == 64
    assert detector.overflowed_candidates > 200
    assert sum("max_candidates" in record.message for record in caplog.records) == 1


def test_host_profile_and_refusals(host: type[FakeNetwork]) -> None:
    detector = CudaDetector(host(np), profile=True)
    detector.detect(random_frames(), OPTIONS)
    assert detector.stage_times.preprocess == detector.stage_times.postprocess == 1e-3
    assert "profiled" in detector.graph_refusal
    assert "DLA" in CudaDetector(host(np, device="dla1")).graph_refusal
    engine = host(np)
    engine.refusal = "it frees what it reads"
    assert CudaDetector(engine).graph_refusal == "it frees what it reads"
    engine.memory = "host"
    with pytest.raises(EngineError, match="host buffers"):
        CudaDetector(engine)


@requires_gpu
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_gpu_equals_reference(mapped: bool, cuda_graph: bool) -> None:
    import cupy

    detector = CudaDetector(FakeNetwork(cupy), cuda_graph=cuda_graph, mapped=mapped)
    detector.warmup()
    if cuda_graph:
        assert detector.graph_refusal == ""
    for seed in range(4):
        frames = random_frames(seed)
        options = OPTIONS[seed % 3 :] + OPTIONS[: seed % 3]  # no new graph for new thresholds
        assert_same(detector.detect(frames, options), expected_detections(frames, options))
    one = detector.enqueue(random_frames(5), OPTIONS)
    two = detector.enqueue(random_frames(6), OPTIONS)
    assert_same(detector.collect(one), expected_detections(random_frames(5), OPTIONS))
    assert_same(detector.collect(two), expected_detections(random_frames(6), OPTIONS))
    detector.close()


@requires_gpu
def test_gpu_frames_on_the_device_are_read_there() -> None:
    import cupy

    detector = CudaDetector(FakeNetwork(cupy))
    rng = np.random.default_rng(4)
    arrays = [rng.integers(0, 256, (120 + 8 * i, 200, 3), dtype=np.uint8) for i in range(3)]
    for images in ([cupy.asarray(each) for each in arrays], _in_one(cupy, arrays)):
        frames = [Frame.on_device(image, "bgr8") for image in images]
        wanted = expected_detections([Frame.from_array(each) for each in arrays], OPTIONS)
        for _ in range(3):
            assert_same(detector.detect(frames, OPTIONS), wanted)
    detector.close()


def _in_one(cupy: Any, arrays: Sequence[np.ndarray]) -> list[Any]:
    """Put arrays into one allocation with room behind each, where they are read in place."""
    room = cupy.zeros((len(arrays), 1 << 17), np.uint8)
    for row, each in zip(room, arrays, strict=True):
        row[: each.size] = cupy.asarray(each).ravel()
    return [row[: a.size].reshape(a.shape) for row, a in zip(room, arrays, strict=True)]


@requires_gpu
def test_gpu_capture_that_fails_falls_back(caplog: pytest.LogCaptureFixture) -> None:
    import cupy

    class Synchronising(FakeNetwork):
        def run(self, batch: int, stream: Any = None) -> None:
            super().run(batch, stream)
            stream.synchronize()  # not allowed while capturing

    detector = CudaDetector(Synchronising(cupy))
    frames = random_frames()
    for _ in range(2):
        assert_same(detector.detect(frames, OPTIONS), expected_detections(frames, OPTIONS))
    assert "capture failed" in detector.graph_refusal
    assert sum("no CUDA graph" in record.message for record in caplog.records) == 1


def check_in_the_executor(detector: CudaDetector) -> None:
    """Three streams at once: two calls under way, and to each frame its own detections."""
    recorder = Recorder()
    most = 0
    enqueue = detector.enqueue

    def counting(frames: Sequence[Frame], options: Sequence[PostprocessOptions]) -> Any:
        nonlocal most
        ticket = enqueue(frames, options)
        most = max(most, detector.in_flight)
        return ticket

    detector.enqueue = counting  # type: ignore[method-assign]
    names = ["a", "b", "c"]
    expected = [
        [expected_detections([f], [o])[0] for f, o in zip(random_frames(s), OPTIONS, strict=True)]
        for s in range(8)
    ]
    with InferenceExecutor([detector], max_batch=1) as executor:
        for name, options in zip(names, OPTIONS, strict=True):
            executor.add_stream(
                StreamConfig(id=name, options=options, queue_depth=20),
                recorder.on_result,
                recorder.on_drop,
            )
        assert executor.wait_started(60.0)
        for seed in range(8):
            for name, frame in zip(names, random_frames(seed), strict=True):
                executor.submit(replace(frame, stream_id=name, stamp_ns=seed))
        assert recorder.wait(lambda: all(len(recorder.results[n]) == 8 for n in names), 60.0)
        # A frame that cannot be read costs itself alone, also while another call is under way.
        for name, encoding in zip(names, ("bgr8", "yuv422", "bgr8"), strict=True):
            odd = random_frames(9)[0]
            object.__setattr__(odd, "encoding", encoding)
            executor.submit(replace(odd, stream_id=name, stamp_ns=9))
        assert recorder.wait(lambda: recorder.drops["b"] == [(9, DropReason.MALFORMED)], 60.0)
        assert recorder.wait(lambda: all(len(recorder.results[n]) == 9 for n in ("a", "c")), 60.0)
        snapshot = executor.snapshot()
    check_counters(snapshot)
    assert most == 2
    assert snapshot.devices[detector.device].errors == 0
    for index, name in enumerate(names):
        assert recorder.numbers(name)[:8] == list(range(8))
        found = [result.detections for result in recorder.results[name][:8]]
        assert_same(found, [expected[seed][index] for seed in range(8)])


def test_host_calls_overlap_in_the_executor(host: type[FakeNetwork]) -> None:
    check_in_the_executor(CudaDetector(host(np), cuda_graph=False))


@requires_gpu
def test_gpu_calls_overlap_in_the_executor() -> None:
    import cupy

    check_in_the_executor(CudaDetector(FakeNetwork(cupy)))
