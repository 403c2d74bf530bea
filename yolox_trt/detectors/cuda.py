# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CudaDetector: preprocess, CUDA engine, decode and NMS on the GPU, as one CUDA graph."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from yolox_trt.core.bound_network import BoundNetwork
from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import EngineError, FrameError, YoloxTrtError
from yolox_trt.core.frame import Frame
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.model_spec import HeadLayout
from yolox_trt.core.optional import require
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.core.roi import Roi
from yolox_trt.detectors.detector import StageTimes
from yolox_trt.detectors.staging import Slot, Stager
from yolox_trt.engines.engine import Engine
from yolox_trt.kernels.cuda import descriptors
from yolox_trt.kernels.cuda.postprocess import CudaPostprocess
from yolox_trt.kernels.cuda.preprocess import CudaPreprocess
from yolox_trt.kernels.reference.color import demosaic

_LOGGER = logging.getLogger(__name__)

#: Calls whose work may be on the device at a time: one computes while the other is uploaded.
SLOTS = 2
#: PostprocessOptions and geometries that are remembered; a rig has a few of each.
_REMEMBERED = 256


class _Layout(Protocol):
    """What CudaDetector needs of engines.tensor_layout.TensorLayout."""

    format: str


@dataclass(frozen=True)
class Ticket:
    """A call under way: made by enqueue(), given to collect() once.

    Attributes:
        slot: index of the buffers that it uses.
        batch: its frames.
        number: running number of the call.
    """

    slot: int
    batch: int
    number: int


class CudaDetector(BoundNetwork):
    """A Detector over an engine with CUDA buffers. Implements detectors.detector.Detector.

    Frames are copied once on the host, into a pinned buffer, and go to the device in parts while
    the rest is still being copied; a frame that lies in pinned memory already is not copied on
    the host at all, and on an integrated GPU the kernels read the pinned buffer itself. From
    there everything is one CUDA graph, where the engine permits it: sizes, encodings and
    thresholds lie in tables that travel with the frames, so that none of them makes a new graph.

    `detect` is `collect(enqueue(...))`. A caller with frames at hand enqueues the next call before
    it collects the last: their copies and computation then overlap.

    Args:
        engine: a CUDA engine; the detector closes it.
        max_candidates: candidates of one image that enter NMS; more are counted in
            `overflowed_candidates` and logged once.
        max_detections: room for one image's detections; grows when options ask for more.
        cuda_graph: whether to capture graphs where the engine permits it.
        profile: whether to measure the stages (stage_times) by events, without graphs.
        mapped: whether kernels read the pinned buffers in place; None: on integrated GPUs.
        copy_threads: threads that copy a batch of frames; None for up to 4, by the cores.

    Raises:
        EngineError: the engine's buffers are not on a CUDA device, or the device's memory is full.
        MissingDependencyError: CuPy is not installed.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_candidates: int = 4096,
        max_detections: int = 300,
        cuda_graph: bool = True,
        profile: bool = False,
        mapped: bool | None = None,
        copy_threads: int | None = None,
    ) -> None:
        if engine.memory != "cuda":
            raise EngineError(
                f"an engine on {engine.device} with {engine.memory} buffers",
                expected="CUDA buffers",
                fix="use detectors.factory.create_detector, which takes the right detector",
            )
        self._cupy: Any = require("cupy", purpose="the CUDA detector")
        self._engine: Engine | None = engine
        self._spec = engine.spec
        self._device = engine.device
        self._max_batch = engine.max_batch
        # A DLA's buffers are in the memory of the GPU beside it, device 0.
        self._cuda_device = self._cupy.cuda.Device(
            engine.device.index if engine.device.kind == "gpu" else 0
        )
        self._profile = profile
        self._graph_refusal = self._why_no_graph(cuda_graph)
        self._stage_times = StageTimes()
        self._numbers = 0
        self._in_flight: list[Ticket] = []
        self._tables: dict[int, tuple[PostprocessOptions, npt.NDArray[np.float32]]] = {}
        self._letterboxes: dict[tuple[int, int, Roi | None], Letterbox] = {}
        self._warned: set[str] = set()
        self.overflowed_candidates = 0
        """Candidates that did not enter NMS, over all frames so far."""

        stager: Stager | None = None
        with self._cuda_device:
            try:
                # An engine that can run on one stream only says so by having it.
                self._stream = getattr(engine, "stream", None) or self._cupy.cuda.Stream(
                    non_blocking=True
                )
                self._preprocess = self._make_preprocess(engine)
                self._postprocess = CudaPostprocess(
                    self._spec,
                    engine.outputs,
                    max_batch=self._max_batch,
                    max_candidates=max_candidates,
                    max_detections=max_detections,
                )
                if mapped is None:
                    mapped = bool(self._cuda_device.attributes.get("Integrated", 0))
                self._stager = stager = Stager(mapped=mapped, threads=copy_threads)
                self._slots = [self._make_slot() for _ in range(SLOTS)]
                self._events = [self._cupy.cuda.Event() for _ in range(4)] if profile else []
                # The kernels' tables were written on CuPy's own stream; calls run on another.
                self._cupy.cuda.get_current_stream().synchronize()
            except Exception as error:
                if stager is not None:
                    stager.close()
                engine.close()
                self._raise(error, "setting up")
        if self._graph_refusal:
            _LOGGER.info("%s: no CUDA graph: %s", self._device, self._graph_refusal)

    # ---- the protocol Detector

    @property
    def stage_times(self) -> StageTimes:
        """Times of the last detect() call, in seconds; told apart only when profiling."""
        return self._stage_times

    def detect(
        self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]
    ) -> list[Detections]:
        """Detect in 1 to max_batch frames; see detectors.detector.Detector.

        Raises:
            EngineError: the network failed, gave NaN, its Device is lost, or device memory is full
                ("out of memory" in the message: a smaller batch may fit).
            FrameError: a frame cannot be read; the Detector stays usable.
        """
        start = time.perf_counter()
        detections = self.collect(self.enqueue(frames, options))
        if not self._profile:
            self._stage_times = StageTimes(inference=time.perf_counter() - start)
        return detections

    def warmup(self) -> None:
        """Compile, allocate and capture for each batch, on grey frames."""
        spec = self._spec
        grey = np.full((spec.input_height, spec.input_width, 3), 114, np.uint8)
        frame = Frame.from_array(grey)
        for batch in range(1, self._max_batch + 1):
            for _ in range(SLOTS):  # each slot has graphs of its own
                self.detect([frame] * batch, [PostprocessOptions()] * batch)

    def close(self) -> None:
        """Release engine, buffers and stream; the detector cannot be used afterwards."""
        if self._engine is None:
            return
        with self._cuda_device:
            try:
                self._stager.synchronize()
                self._stream.synchronize()
            except self._cupy.cuda.runtime.CUDARuntimeError as error:
                _LOGGER.warning("%s: %s while closing", self._device, error)
            self._in_flight.clear()
            self._slots.clear()
            self._stager.close()
            self._engine.close()
        self._engine = None

    # ---- more than the protocol

    @property
    def graph_refusal(self) -> str:
        """Why no CUDA graph is used; empty if one is."""
        return self._graph_refusal

    @property
    def max_calls(self) -> int:
        """Calls that may be under way at a time: one while stages are profiled, whose events
        serve one call.
        """
        return 1 if self._profile else SLOTS

    @property
    def in_flight(self) -> int:
        """Calls enqueued and not yet collected, at most SLOTS."""
        return len(self._in_flight)

    def enqueue(self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]) -> Ticket:
        """Start a call. The frames' buffers must stay unchanged until it is collected.

        Args:
            frames: 1 to max_batch images.
            options: thresholds, one for each frame.

        Raises:
            EngineError, FrameError: as detect().
            RuntimeError: SLOTS calls are under way already.
        """
        engine = self._check_call(frames, options)
        number = self._numbers
        slot = self._slots[number % SLOTS]
        if any(ticket.slot == number % SLOTS for ticket in self._in_flight):
            raise RuntimeError(f"{SLOTS} calls under way; collect() the oldest first")
        frames = [self._readable(frame) for frame in frames]
        with self._cuda_device:
            try:
                self._stage(slot, frames, options)
                self._run(engine, slot, len(frames))
            except Exception as error:
                self._recover()
                self._raise(error, "running")
        self._numbers += 1
        ticket = Ticket(number % SLOTS, len(frames), number)
        self._in_flight.append(ticket)
        return ticket

    def collect(self, ticket: Ticket) -> list[Detections]:
        """Wait for a call and return its Detections. Calls are collected in their order.

        Raises:
            EngineError: as detect().
            RuntimeError: another call comes first, or the ticket was collected before.
        """
        if not self._in_flight or self._in_flight[0] != ticket:
            raise RuntimeError(f"{ticket} is not the oldest call under way: {self._in_flight}")
        self._in_flight.pop(0)
        slot = self._slots[ticket.slot]
        try:
            slot.done.synchronize()
        except self._cupy.cuda.runtime.CUDARuntimeError as error:
            self._raise(error, "running")
        if self._profile:
            elapsed = [
                self._cupy.cuda.get_elapsed_time(before, after) * 1e-3
                for before, after in zip(self._events, self._events[1:], strict=False)
            ]
            self._stage_times = StageTimes(*elapsed)
        return [self._read(slot.results, index) for index in range(ticket.batch)]

    # ---- set-up

    def _why_no_graph(self, wanted: bool) -> str:
        if self._device.kind == "dla":
            return "a DLA's work cannot be captured"
        if self._profile:
            return "the stages are being profiled"
        if not wanted:
            return "switched off (parameter cuda_graph)"
        assert self._engine is not None
        if not self._engine.graph_capturable:
            reason = getattr(self._engine, "capture_refusal", "")
            return reason or f"{type(self._engine).__name__} cannot be captured"
        return ""

    def _make_preprocess(self, engine: Engine) -> CudaPreprocess:
        spec = self._spec
        layout: _Layout | None = getattr(engine, "input_layout", None)
        form = "linear" if layout is None else layout.format
        pitch = None
        if form in ("linear", "dla_linear"):
            pitch = engine.input.strides[2] // engine.input.itemsize
        elif form == "dla_hwc4":
            pitch = engine.input.strides[1] // (4 * engine.input.itemsize)
        names = {"linear": "nchw", "dla_linear": "nchw", "dla_hwc4": "hwc4"}
        scale = getattr(engine, "input_scale", None)
        if str(engine.input.dtype) == "int8" and scale is None:
            raise EngineError(
                "an int8 input of unknown scale",
                expected="the real value of one step, from calibration",
                fix="build the engine again",
            )
        return CudaPreprocess(
            height=spec.input_height,
            width=spec.input_width,
            dtype=str(engine.input.dtype),
            layout=names.get(form, form),
            row_pitch=pitch,
            preprocessing=spec.preprocessing,
            input_scale=1.0 if scale is None else float(scale),
        )

    def _make_slot(self) -> Slot:
        return Slot(
            max_batch=self._max_batch,
            num_classes=self._spec.num_classes,
            result_shape=(self._max_batch, self._postprocess.dtype.itemsize),
            mapped=self._stager.mapped,
        )

    # ---- one call

    def _check_call(self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]) -> Engine:
        if self._engine is None:
            raise EngineError("detect() of a closed detector", expected="an open one")
        if not 1 <= len(frames) <= self._max_batch or len(frames) != len(options):
            raise ValueError(
                f"{len(frames)} frames with {len(options)} options; expected 1 to "
                f"{self._max_batch} of both"
            )
        most = max(option.max_detections for option in options)
        if most > self._postprocess.max_detections < self._postprocess.capacity:
            self._grow_results(most)
        return self._engine

    def _grow_results(self, max_detections: int) -> None:
        """Make room for more detections an image: new result buffers, and new graphs."""
        if self._in_flight:
            raise RuntimeError("collect() calls under way before asking for more detections")
        with self._cuda_device:
            try:
                # All of it or nothing: a kernel must not write for buffers that did not come.
                room = self._postprocess.make_room(max_detections)
                shape = (self._max_batch, room.dtype.itemsize)
                buffers = [slot.make_results(shape) for slot in self._slots]
            except Exception as error:
                self._raise(error, "making room for more detections")
            self._postprocess.take_room(room)
            for slot, buffer in zip(self._slots, buffers, strict=True):
                slot.take_results(buffer)
        _LOGGER.info("%s: room for %d detections an image", self._device, max_detections)

    def _readable(self, frame: Frame) -> Frame:
        """Return a frame whose encoding the kernel reads."""
        if frame.encoding in descriptors.ENCODING_CODES:
            if frame.step * frame.height * 2 >= 1 << 32:
                raise FrameError(
                    f"an image of {frame.step * frame.height} bytes", expected="< 2 GB"
                )
            return frame
        if frame.encoding.startswith("bayer_"):
            self._warn_once(
                frame.encoding, f"{frame.encoding} is demosaiced on the CPU; send bgr8 for speed"
            )
            bgr = demosaic(np.ascontiguousarray(frame.rows), frame.encoding)
            return Frame.from_array(bgr, roi=frame.roi)
        raise FrameError(
            f"image encoding '{frame.encoding}'",
            expected=f"one of {', '.join(descriptors.ENCODING_CODES)}",
            fix="convert in the camera driver",
        )

    def _letterbox(self, frame: Frame) -> Letterbox:
        key = (frame.height, frame.width, frame.roi)
        letterbox = self._letterboxes.get(key)
        if letterbox is None:
            if len(self._letterboxes) >= _REMEMBERED:
                self._letterboxes.clear()
            letterbox = Letterbox.of_frame(frame, self._spec.input_height, self._spec.input_width)
            self._letterboxes[key] = letterbox
        return letterbox

    def _thresholds(self, options: PostprocessOptions) -> npt.NDArray[np.float32]:
        # Options are compared by identity: hashing their class thresholds would cost more.
        known = self._tables.get(id(options))
        if known is None or known[0] is not options:
            if len(self._tables) >= _REMEMBERED:
                self._tables.clear()
            known = (options, options.threshold_array(self._spec.num_classes))
            self._tables[id(options)] = known
        return known[1]

    def _stage(
        self, slot: Slot, frames: Sequence[Frame], options: Sequence[PostprocessOptions]
    ) -> None:
        """Write the tables, copy the frames, and start their way to the device."""
        letterboxes = [self._letterbox(frame) for frame in frames]
        parts = self._stager.plan(slot, frames, letterboxes)
        in_network = self._spec.head is HeadLayout.EFFICIENT_NMS
        for index, (frame, letterbox, option) in enumerate(
            zip(frames, letterboxes, options, strict=True)
        ):
            address = parts.addresses[index]
            descriptors.pack_image(
                slot.tables,
                slot.image_offset + index * descriptors.IMAGE.size,
                frame,
                letterbox,
                color_order=self._spec.preprocessing.color_order,
                data=address.data,
                chroma=address.chroma,
                compact=address.compact,
            )
            descriptors.pack_post(
                slot.tables,
                slot.post_offset + index * descriptors.POST.size,
                letterbox,
                option,
                nms_in_network=in_network,
            )
            slot.thresholds[index] = self._thresholds(option)
        self._stager.upload(slot, parts, self._stream)

    def _run(self, engine: Engine, slot: Slot, batch: int) -> None:
        graph = None if self._graph_refusal else slot.graphs.get(batch)
        if graph is None and not self._graph_refusal:
            graph = self._capture(engine, slot, batch)
        if graph is not None:
            graph.launch(self._stream)
        else:
            self._enqueue_stages(engine, slot, batch)
        slot.done.record(self._stream)

    def _enqueue_stages(self, engine: Engine, slot: Slot, batch: int) -> None:
        """Enqueue all the device's work on the stream."""
        events = self._events
        with self._stream:
            if events:
                events[0].record(self._stream)
            self._preprocess(slot.images, engine.input.data.ptr, batch)
            if events:
                events[1].record(self._stream)
            engine.run(batch, self._stream)
            if events:
                events[2].record(self._stream)
            self._postprocess(slot.posts, slot.thresholds_address, batch)
            slot.fetch(self._postprocess.results, batch, self._stream)
            if events:
                events[3].record(self._stream)

    def _capture(self, engine: Engine, slot: Slot, batch: int) -> Any:
        """Capture a graph of one slot and batch; fall back to plain launches, once and for all."""
        start = time.perf_counter()
        # What is done only once (allocation, choice of algorithms) must not be captured.
        for _ in range(2):
            self._enqueue_stages(engine, slot, batch)
        self._stream.synchronize()
        graph = None
        reason = ""
        self._stream.begin_capture()
        try:
            self._enqueue_stages(engine, slot, batch)
        except Exception as error:
            reason = str(error)
        try:
            graph = self._stream.end_capture()
        except Exception as error:
            reason = reason or str(error)
        if reason or graph is None:
            self._graph_refusal = f"capture failed ({reason})"
            _LOGGER.warning("%s: no CUDA graph: %s", self._device, self._graph_refusal)
            with self._stream:
                self._postprocess.reset()
            return None
        graph.upload(self._stream)
        slot.graphs[batch] = graph
        _LOGGER.info(
            "%s: CUDA graph for batch %d captured in %.0f ms",
            self._device,
            batch,
            (time.perf_counter() - start) * 1e3,
        )
        return graph

    def _read(self, results: npt.NDArray[np.uint8], index: int) -> Detections:
        result = self._postprocess.read(results.view(self._postprocess.dtype)[:, 0], index)
        if result["overflow"]:
            self.overflowed_candidates += int(result["overflow"])
            self._warn_once(
                "overflow",
                f"{result['candidates']} candidates in one image, of which the best "
                f"{self._postprocess.capacity} entered NMS; raise max_candidates or the thresholds",
            )
        rows = slice(int(result["count"]))
        # Copies: the slot's buffer is written again by the next call but one.
        return Detections(
            result["boxes"][rows].copy(),
            result["scores"][rows].copy(),
            result["class_ids"][rows].copy(),
        )

    # ---- when something fails

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            _LOGGER.warning("%s: %s", self._device, message)

    def _recover(self) -> None:
        """Bring the buffers into a state from which the next call can start, if possible."""
        try:
            if self._stream.is_capturing():
                self._stream.end_capture()
            # Copies may be under way that nothing on the compute stream waits for.
            self._stager.synchronize()
            with self._stream:
                self._postprocess.reset()
            self._stream.synchronize()
        except Exception as error:
            _LOGGER.warning("%s: %s while recovering", self._device, error)

    def _raise(self, error: Exception, what: str) -> NoReturn:
        """Raise an error as one of this package; it says "out of memory" if that is the cause."""
        if isinstance(error, YoloxTrtError):
            raise error
        memory = isinstance(error, self._cupy.cuda.memory.OutOfMemoryError)
        text = f"{what} on {self._device} failed: {error}"
        if memory or "cudaErrorMemoryAllocation" in str(error):
            raise EngineError(
                f"out of memory: {text}",
                expected="free device memory",
                fix="set a smaller max_batch, or run fewer engines on this device",
            ) from error
        raise EngineError(
            text,
            expected="the device to work",
            fix="see the log; if the device is lost, restart the process",
        ) from error
