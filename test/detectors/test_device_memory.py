# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Images that another process leaves in a GPU's memory: by CUDA IPC, or by a stand-in over memfds.

The pool, its channel, the sink and the two processes are the real ones. No ROS is needed.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from detectors.test_cuda import FakeNetwork
from support import ipc_host
from support.gpu import requires_gpu

from yolox_trt.core.device import Device
from yolox_trt.core.errors import EngineError, FrameError
from yolox_trt.core.frame import Frame
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors.cuda import CudaDetector
from yolox_trt.detectors.device_memory import (
    ExportedMemory,
    ImportedMemory,
    device_at,
    return_freed_device_memory,
)
from yolox_trt.detectors.host_memory import pin
from yolox_trt.ros.ingest.channel import IngestChannel
from yolox_trt.ros.ingest.device_ring import DeviceRing, DeviceRingWriter
from yolox_trt.ros.ingest.image_topic import ImageTopic
from yolox_trt.ros.ingest.pool import IngestPool
from yolox_trt.ros.ingest.shared_memory_sink import SharedMemorySink

TEST = Path(__file__).parents[1]
TOPIC = ImageTopic(name="/image", transport="compressed", reliability="best_effort", depth=1)
GPU = (Device("gpu"),)
SIZE = 64 * 96 * 3
FIELDS = {"height": 64, "width": 96, "encoding": "bgr8", "step": 288, "stamp_ns": 5}


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, "cupy", cupy := ipc_host.make_cupy())
    monkeypatch.setattr(ipc_host, "log", [])
    return cupy


@pytest.fixture(params=["stand-in", pytest.param("gpu", marks=requires_gpu)])
def cuda(request: pytest.FixtureRequest) -> str:
    if request.param == "stand-in":
        request.getfixturevalue("stand_in")
    return str(request.param)


class Sink:
    """Keeps the newest frames of a camera, `kept` of them, and what each one holds."""

    def __init__(self, kept: int = 0) -> None:
        self.kept = kept
        self.frames: list[Frame] = []
        self.seen: list[tuple[int, bool, tuple[int, int]]] = []  # stamp, on the device, size
        self.wrong: list[int] = []
        self.refused: list[str] = []
        self.full = 0

    def on_frame(self, frame: Frame) -> None:
        if not is_sound(frame):
            self.wrong.append(frame.stamp_ns)
        on_device = frame.device_array is not None
        self.seen.append((frame.stamp_ns, on_device, (frame.height, frame.width)))
        self.frames = [*self.frames, frame][-self.kept :] if self.kept else []

    def on_refused(self, reason: str) -> None:
        self.refused.append(reason)

    def on_full(self) -> None:
        self.full += 1

    def on_lost(self, count: int) -> None: ...

    @property
    def on_device(self) -> int:
        return sum(each[1] for each in self.seen)


def is_sound(frame: Frame) -> bool:
    rows = frame.on_host().rows
    return bool((rows == frame.stamp_ns % 251).all()) and rows.shape == (*frame.source_size, 3)


def wait_until(done: Callable[[], Any], timeout: float = 60.0) -> None:
    end = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)


def rings() -> tuple[int, int]:
    """Return how many rings in the GPU's memory were made, one at a time, and how many are there.

    A source that waits long for an answer, on a busy machine, asks again and gets another ring.
    """
    log = ipc_host.log
    assert log == [("malloc", "free")[index % 2] for index in range(len(log))]
    return log.count("malloc"), len(log) % 2


@pytest.fixture
def start(
    cuda: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[IngestPool, Any]]]:
    """Start a pool of one source; the last value given back tells its process."""
    pools: list[IngestPool] = []
    monkeypatch.setenv("PYTHONPATH", f"{TEST}{os.pathsep}{TEST.parent}")

    def begin(
        sink: Sink, sizes: str = "64x96", devices: tuple[Device, ...] = GPU
    ) -> tuple[IngestPool, Callable[[], psutil.Process]]:
        def command(self: IngestPool, member: Any, fd: int) -> list[str]:
            return [sys.executable, "-m", "support.ipc_source", str(fd), cuda, sizes]

        monkeypatch.setattr(IngestPool, "_command", command)
        pools.append(pool := IngestPool(1, "pool", devices=devices))
        pool.subscribe("front", sink, TOPIC, queue_depth=1)

        def source() -> psutil.Process:
            (found,) = [
                each
                for each in psutil.Process().children()
                if "support.ipc_source" in each.cmdline()
            ]
            return found

        return pool, source

    yield begin
    for pool in pools:
        assert pool.close(timeout=60.0)


def test_images_of_another_process_stay_on_the_gpu(
    start: Callable[..., Any], cuda: str, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink(kept=2)
    pool, _ = start(sink)
    wait_until(lambda: sink.on_device > 60)  # six slots, again and again
    assert not (sink.wrong or sink.refused or caplog.text)
    # What is held is not written again, and its slot is missing until it is let go.
    sink.kept = 100
    wait_until(lambda: len(sink.frames) == 6)
    held, full = list(sink.frames), sink.full
    wait_until(lambda: sink.full > full + 5)
    assert len(sink.frames) == 6
    assert all(map(is_sound, held))
    before = sink.on_device
    sink.kept, sink.frames = 0, []
    held.clear()
    wait_until(lambda: sink.on_device > before + 20)
    assert not sink.wrong
    if cuda == "stand-in":
        assert rings()[1] == 1
        pool.unsubscribe("front")
        wait_until(lambda: rings()[1] == 0)


def test_a_source_that_dies_takes_nothing_with_it(start: Callable[..., Any], cuda: str) -> None:
    sink = Sink(kept=3)
    pool, source = start(sink)
    wait_until(lambda: sink.on_device > 10)
    source().kill()
    wait_until(lambda: pool.restarts == 1)
    last, sink.frames, sink.kept = list(sink.frames), [], 0
    before = sink.on_device
    assert any(frame.device_array is not None for frame in last)
    # Its memory stays as long as a frame in it is held, and the new process gets other memory.
    assert all(map(is_sound, last))
    assert sink.on_device == before
    last.clear()
    gc.collect()
    wait_until(lambda: sink.on_device > before + 10)
    assert not sink.wrong
    if cuda == "stand-in":
        made, there = rings()
        assert (made >= 2, there) == (True, 1)


def test_images_of_another_size_get_another_ring(start: Callable[..., Any], cuda: str) -> None:
    sink = Sink()
    start(sink, "64x96,240x320,64x96")

    def on_device(size: tuple[int, int], since: int) -> bool:
        return any(each[1] and each[2] == size for each in sink.seen[since:])

    for height, width in ((64, 96), (240, 320), (64, 96)):
        since = len(sink.seen)
        wait_until(lambda size=(height, width), since=since: on_device(size, since))
    assert not (sink.wrong or sink.refused)
    if cuda == "stand-in":  # one at a time
        assert ipc_host.log[:5] == ["malloc", "free", "malloc", "free", "malloc"]


@requires_gpu
@pytest.mark.parametrize("cuda", ["gpu"], indirect=True)
def test_a_detector_reads_the_slots_in_place(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import cupy

    detector = CudaDetector(FakeNetwork(cupy, 1))
    options = [PostprocessOptions(0.3, 0.6)]
    copies: list[int] = []
    plan = detector._stager.plan
    monkeypatch.setattr(
        detector._stager,
        "plan",
        lambda *given: (parts := plan(*given), copies.append(len(parts.on_device)))[0],
    )
    found: list[bool] = []

    class Detecting(Sink):
        def on_frame(self, frame: Frame) -> None:
            super().on_frame(frame)
            if frame.device_array is None:
                return
            (there,) = detector.detect([frame], options)
            (here,) = detector.detect([frame.on_host()], options)
            found.append(
                len(there.scores) > 0
                and np.array_equal(there.boxes, here.boxes)
                and np.array_equal(there.scores, here.scores)
            )

    sink = Detecting()
    start(sink)
    wait_until(lambda: len(found) > 30)  # the last slot is among them
    assert all(found[:30])
    assert not sum(copies)
    assert not sink.wrong  # a slot may be full: the images come as fast as they are copied


def refuse_handle(monkeypatch: pytest.MonkeyPatch, cupy: Any) -> None:
    def refuse(_: int) -> bytes:
        raise ipc_host.CUDARuntimeError("cudaErrorNotSupported: operation not supported")

    monkeypatch.setattr(cupy.cuda.runtime, "ipcGetMemHandle", refuse)


def strange_handle(monkeypatch: pytest.MonkeyPatch, cupy: Any) -> None:
    handle = f"{os.getpid()} 9999 1".encode().ljust(64, b"\0")
    monkeypatch.setattr(cupy.cuda.runtime, "ipcGetMemHandle", lambda _: handle)


def other_gpu(monkeypatch: pytest.MonkeyPatch, cupy: Any) -> None:
    monkeypatch.setattr(cupy.cuda.Device, "pci_bus_id", "0000:99:00.0")


def no_change(monkeypatch: pytest.MonkeyPatch, cupy: Any) -> None: ...


@pytest.mark.parametrize("cuda", ["stand-in"], indirect=True)
@pytest.mark.parametrize(
    ("change", "devices", "reason"),
    [
        (refuse_handle, GPU, "cannot be shared (CUDA IPC): cudaErrorNotSupported"),
        (strange_handle, GPU, "cannot be opened (CUDA IPC): cudaErrorInvalidValue"),
        (other_gpu, GPU, f"the GPU {ipc_host.BUS_ID}, which this process does not see"),
        (no_change, (Device("gpu", 1),), "images on gpu:0 for a detector on gpu:1"),
        (no_change, (Device("cpu"),), "no detector on one"),
    ],
)
def test_without_shared_memory_of_the_gpu_images_come_through_the_hosts(
    start: Callable[..., Any],
    stand_in: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: Callable[..., None],
    devices: tuple[Device, ...],
    reason: str,
) -> None:
    change(monkeypatch, stand_in)
    sink = Sink()
    start(sink, devices=devices)
    wait_until(lambda: caplog.records and len(sink.seen) > 150)
    (record,) = caplog.records
    assert record.getMessage().startswith("camera front: images that are decoded on the GPU come")
    assert reason in record.getMessage()
    assert not (sink.on_device or sink.wrong or sink.refused)
    assert ipc_host.log.count("malloc") == ipc_host.log.count("free")


def ends(slots: int = 2, slot_bytes: int = SIZE) -> tuple[DeviceRing, DeviceRingWriter]:
    ring = DeviceRing(slots, slot_bytes, 0)
    writer = DeviceRingWriter(ring.fd, **ring.fields)
    ring.close_fd()
    return ring, writer


def test_what_is_not_in_its_slot_is_no_image(stand_in: Any) -> None:
    ring, writer = ends()
    assert writer.write(stand_in.asarray(np.full((64, 96, 3), 7, np.uint8))) == 0
    for changes, error in (
        ({"slot": 2}, ValueError),
        ({"slot": -1}, ValueError),
        ({"step": 289}, ValueError),
        ({"width": 95}, ValueError),
        ({"height": 640}, FrameError),
        ({"height": -64}, FrameError),
        ({"step": 0}, FrameError),
        ({"encoding": "nv12", "step": 96, "height": 1 << 20}, FrameError),
        ({"encoding": "none"}, FrameError),
        ({"encoding": "bayer_rggb8", "step": 96}, FrameError),  # the CPU's, which has no bytes
    ):
        fields = {**FIELDS, **changes}
        with pytest.raises(error):
            ring.frame(fields.pop("slot", 0), fields)
    frame = ring.frame(0, FIELDS)
    assert frame.on_host().rows.tolist() == np.full((64, 96, 3), 7).tolist()
    # nv12, whose rows are not those of the image
    planes = stand_in.asarray(np.arange(96 * 96, dtype=np.uint8).reshape(96, 96))
    assert writer.write(planes) == 1
    frame = ring.frame(1, {**FIELDS, "encoding": "nv12", "step": 96})
    assert (frame.height, frame.on_host().rows.shape) == (64, (96, 96))
    assert np.array_equal(frame.on_host().rows, planes)
    writer.close()


def test_a_ring_outlives_its_object_while_a_frame_is_held(stand_in: Any) -> None:
    ring, writer = ends(1)
    writer.write(stand_in.asarray(np.full((64, 96, 3), 7, np.uint8)))
    frame = ring.frame(0, FIELDS)
    assert writer.write(frame.device_array) is None
    writer.close()
    del ring
    assert ipc_host.log == ["malloc", "open", "close"]
    part = frame.device_array[3:5]
    del frame
    assert ipc_host.log[-1] == "close"
    assert part.get().tolist() == np.full((2, 96, 3), 7).tolist()
    del part
    assert ipc_host.log[-1] == "free"


def test_calls_come_to_the_gpu_that_they_concern(
    stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is the calling thread's current device, which the first GPU is by default."""
    monkeypatch.setattr(ipc_host, "calls", [])
    memory = ExportedMemory(5, 1)
    ImportedMemory(memory.handle, 1).close()
    release = pin(np.empty(4096, np.uint8), 1)
    assert release is not None
    release()
    assert ipc_host.calls == [("close", 1), ("pin", 1), ("unpin", 1)]
    assert ipc_host.devices == [0]


def test_pools_are_emptied_on_the_gpus_of_the_detectors(
    stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[tuple[str, int]] = []
    for name in ("memory", "pinned_memory"):
        pool = SimpleNamespace(
            free_all_blocks=lambda name=name: freed.append((name, ipc_host.devices[-1]))
        )
        setattr(stand_in, f"get_default_{name}_pool", lambda pool=pool: pool)
    return_freed_device_memory([Device("gpu", 1), Device("cpu"), Device("gpu", 1)])
    assert freed == [("memory", 1), ("pinned_memory", 0)]
    monkeypatch.delitem(sys.modules, "cupy")
    return_freed_device_memory([Device("gpu")])  # nothing is imported for it
    assert len(freed) == 2 and "cupy" not in sys.modules


def test_allocations_are_not_shared_with_others(stand_in: Any) -> None:
    """CUDA gives small allocations parts of a block of 2 MB, and a handle stands for the block."""
    memory = ExportedMemory(5, 0)
    assert ipc_host.by_address[memory.address][1] == 2 << 20
    with pytest.raises(EngineError, match="cannot be opened"):
        ImportedMemory(
            f"{os.getpid()} 9999 1".encode().ljust(64, b"\0"), device_at(ipc_host.BUS_ID)
        )


def test_an_answer_that_comes_too_late_is_given_back(
    stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yolox_trt.ros.ingest.shared_memory_sink.ASK_AGAIN", 0.0)
    here, other = IngestChannel.pair()
    there = IngestChannel(other)
    sink = SharedMemorySink("front", here, print, generation=1, slots=3)
    pixels = stand_in.asarray(np.zeros((64, 96, 3), np.uint8))

    def send() -> dict[str, dict[str, Any]]:
        """Send an image, and return the messages by their kinds."""
        sink.on_frame(Frame.on_device(pixels, "bgr8"))
        found = {}
        while there.poll(0.0):
            message, fd = there.receive() or ({}, None)
            if fd is not None:
                os.close(fd)
            found[message["kind"]] = message
        return found

    def answer(generation: int) -> DeviceRing:
        ring = DeviceRing(3, SIZE, 0)
        sink.on_device_ring(ring.fd, generation=generation, **ring.fields)
        ring.close_fd()
        return ring

    before = psutil.Process().num_fds()
    first = send()["device_ring_wanted"]
    assert (first["slots"], first["bus_id"]) == (3, ipc_host.BUS_ID)
    second = send()["device_ring_wanted"]
    answer(first["generation"])
    assert send()["device_ring_closed"]["generation"] == first["generation"]
    # The question has been asked once more meanwhile.
    third = second["generation"] + 1
    kept = answer(third)
    frame = send()["frame"]
    assert (frame["generation"], frame["slot"]) == (third, 0)
    assert kept.frame(0, frame["frame"]).height == 64
    sink.close()
    assert there.receive() == (
        {"kind": "device_ring_closed", "camera": "front", "generation": third, "reason": ""},
        None,
    )
    answer(third)
    gc.collect()
    assert ipc_host.log.count("open") == ipc_host.log.count("close") == 1
    # A mapping keeps a descriptor: of the sink's own ring, and of the flags and memory of `kept`,
    # whose memfd is the fourth.
    assert psutil.Process().num_fds() == before + 4
    here.close()
    there.close()


@pytest.mark.parametrize("wrong", [{"slots": 100}, {"slots": 0}, {"slot_bytes": LIMITS.ring_bytes}])
def test_a_process_gets_no_more_than_its_camera_may_have(
    stand_in: Any, caplog: pytest.LogCaptureFixture, wrong: dict[str, int]
) -> None:
    pool = IngestPool(0, "pool", devices=GPU)
    here, other = IngestChannel.pair()
    there = IngestChannel(other)

    member: Any = SimpleNamespace(name="pool_ingest_0", channel=here, cameras={}, lent={})
    pool._members.append(member)
    pool.subscribe("front", Sink(), TOPIC, queue_depth=1)
    there.receive()
    asked: dict[str, Any] = {
        "kind": "device_ring_wanted",
        "generation": 1 << 20,
        "slots": 6,
        "slot_bytes": SIZE,
    }
    asked["bus_id"] = ipc_host.BUS_ID
    pool._handle(member, "front", {**asked, **wrong}, None)
    message, fd = there.receive() or ({}, None)
    assert (message["kind"], fd, len(caplog.records)) == ("device_ring", None, 1)
    assert not ipc_host.log
    # What it may have it gets once, until it has given it back.
    for _ in range(3):
        pool._handle(member, "front", asked, None)
    assert ipc_host.log == ["malloc"]
    message, fd = there.receive() or ({}, None)
    assert (message["slots"], fd is None, there.poll(0.0)) == (6, False, False)
    os.close(fd or -1)
    closed = {"kind": "device_ring_closed", "generation": asked["generation"], "reason": ""}
    pool._handle(member, "front", closed, None)
    assert ipc_host.log == ["malloc", "free"]
    here.close()
    there.close()
    pool._members.clear()
