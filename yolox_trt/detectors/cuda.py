# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CudaDetector: preprocess, CUDA engine, decode and NMS on the GPU, as one CUDA graph."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import EngineError, FrameError
from yolox_trt.core.faults import DeviceBusyError
from yolox_trt.core.frame import Frame
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.model_spec import HeadLayout
from yolox_trt.core.optional import require
from yolox_trt.core.postprocess_options import PostprocessOptions, ThresholdTables
from yolox_trt.detectors.detector import Detector, StageTimes, Ticket
from yolox_trt.detectors.device_memory import in_order
from yolox_trt.detectors.host_decode import HostDecode
from yolox_trt.detectors.staging import Slot, Stager
from yolox_trt.engines.engine import Engine
from yolox_trt.kernels.cuda import descriptors
from yolox_trt.kernels.cuda.masks import CudaMasks
from yolox_trt.kernels.cuda.postprocess import CudaPostprocess
from yolox_trt.kernels.cuda.preprocess import CudaPreprocess
from yolox_trt.kernels.reference.color import demosaic

_LOGGER = logging.getLogger(__name__)

#: Calls whose work may be on the device at a time: one computes while the other is uploaded.
SLOTS = 2
#: Format of an engine's input -> layout of kernels.cuda.preprocess, where it has another name.
_KERNEL_LAYOUTS = {"linear": "nchw", "dla_linear": "nchw", "dla_hwc4": "hwc4"}
#: PostprocessOptions and geometries that are remembered; a rig has a few of each.
_REMEMBERED = 256


class CudaDetector(Detector):
    """A Detector over an engine with CUDA buffers.

    Frames are copied once on the host, into a pinned buffer, and go to the device in parts while
    the rest is still being copied; a frame that lies in pinned memory already is not copied on
    the host at all, and on an integrated GPU the kernels read the pinned buffer itself. From
    there everything is one CUDA graph, where the engine permits it: sizes, encodings and
    thresholds lie in tables that travel with the frames, so that none of them makes a new graph.

    Args:
        engine: a CUDA engine; the detector closes it.
        max_candidates: candidates of one image that enter NMS; more are counted in
            `overflowed_candidates` and logged once.
        max_detections: room for one image's detections; grows when options ask for more.
        cuda_graph: whether to capture graphs where the engine permits it.
        profile: whether to measure the stages (stage_times) by events, without graphs.
        mapped: whether kernels read the pinned buffers in place; None: on integrated GPUs.
        copy_threads: threads that copy a batch of frames; None for up to 4, by the cores.

    Attributes:
        engine: the engine.
        stream: the CUDA stream of its calls.

    Raises:
        EngineError: the engine's buffers are not on a CUDA device.
        OutOfMemoryError, DeviceBrokenError: see core.faults.
        MissingDependencyError: CuPy is not installed.
    """

    reads_device_arrays = True

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
        # The events that measure the stages serve one call.
        super().__init__(engine.device, engine.spec, engine.max_batch, 1 if profile else SLOTS)
        self._cupy: Any = require("cupy", purpose="the CUDA detector")
        self.engine = engine
        self._cuda_device = self._cupy.cuda.Device(engine.device.cuda_index)
        self._profile = profile
        self.graph_refusal = self._why_no_graph(cuda_graph)
        """Why no CUDA graph is used; empty if one is."""
        self._numbers = 0
        self._thresholds = ThresholdTables(self.spec.num_classes)
        self._fit = lru_cache(_REMEMBERED)(Letterbox.fit)
        self._warned: set[str] = set()
        self.overflowed_candidates = 0
        """Candidates that did not enter NMS, over all frames so far."""

        stager: Stager | None = None
        with self._cuda_device:
            try:
                self.stream = engine.stream or self._cupy.cuda.Stream(non_blocking=True)
                self._preprocess = self._make_preprocess()
                self._postprocess: CudaPostprocess | HostDecode
                if self.spec.head is HeadLayout.CUSTOM:
                    self._postprocess = HostDecode(
                        self.spec, engine.outputs, max_batch=self.max_batch
                    )
                    self._warn_once(
                        "host",
                        f"'{self.spec.model_type}' is decoded on the CPU: "
                        f"{self._postprocess.dtype.itemsize} bytes an image are copied to the host",
                    )
                else:
                    self._postprocess = CudaPostprocess(
                        self.spec,
                        engine.outputs,
                        max_batch=self.max_batch,
                        max_candidates=max_candidates,
                        max_detections=max_detections,
                        scales=engine.output_scales,
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
        if self.graph_refusal:
            _LOGGER.info("%s: no CUDA graph: %s", self.device, self.graph_refusal)

    def warmup(self) -> None:
        """Compile, allocate and capture for each batch, on grey frames."""
        for batch in range(1, self.max_batch + 1):
            for _ in range(SLOTS):  # each slot has graphs of its own
                self._detect_grey(batch)
        self.engine.keep_compiled()

    def close(self) -> None:
        """Release engine, buffers and stream; the detector cannot be used afterwards."""
        if self._closed:
            return
        self._closed = True
        with self._cuda_device:
            try:
                self._stager.synchronize()
                self.stream.synchronize()
            except self._cupy.cuda.runtime.CUDARuntimeError as error:
                _LOGGER.warning("%s: %s while closing", self.device, error)
            self._under_way.clear()
            self._slots.clear()
            self._stager.close()
            self.engine.close()

    # ---- one call

    def _start(self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]) -> Ticket:
        most = max(option.max_detections for option in options)
        if most > self._postprocess.max_detections < self._postprocess.capacity:
            self._grow_results(most)
        ticket = Ticket(len(frames), self._numbers)
        slot = self._slots[ticket.number % SLOTS]
        frames = [self._readable(frame) for frame in frames]
        with self._cuda_device:
            try:
                slot.held = frames = [self._on_stream(frame) for frame in frames]
                self._stage(slot, frames, options)
                self._run(slot, len(frames))
            except Exception as error:
                self._recover()
                self._raise(error, "running")
        self._numbers += 1
        return ticket

    def _spin(self) -> None:
        # Its failure comes once more in collect(), which tells it.
        with contextlib.suppress(self._cupy.cuda.runtime.CUDARuntimeError):
            self.stream.synchronize()

    def _finish(self, ticket: Ticket) -> list[Detections]:
        slot = self._slots[ticket.number % SLOTS]
        try:
            slot.done.synchronize()
        except self._cupy.cuda.runtime.CUDARuntimeError as error:
            self._raise(error, "running")
        slot.held = []  # whoever lent the memory may write it again
        self.engine.raise_late_fault()
        if self._profile:
            elapsed = [
                self._cupy.cuda.get_elapsed_time(before, after) * 1e-3
                for before, after in zip(self._events, self._events[1:], strict=False)
            ]
            self.stage_times = StageTimes(*elapsed)
        return [self._read(slot, index) for index in range(ticket.batch)]

    # ---- set-up

    def _why_no_graph(self, wanted: bool) -> str:
        if refusal := self.engine.capture_refusal:
            return refusal
        if self._profile:
            return "the stages are being profiled"
        return "" if wanted else "switched off (`cuda_graph`)"

    def _make_preprocess(self) -> CudaPreprocess:
        engine, spec = self.engine, self.spec
        form, dtype = engine.input_format, str(engine.input.dtype)
        pitch = None
        if form in ("linear", "dla_linear"):
            pitch = engine.input.strides[2] // engine.input.itemsize
        elif form == "dla_hwc4":
            pitch = engine.input.strides[1] // (4 * engine.input.itemsize)
        if dtype == "int8" and engine.input_scale is None:
            raise EngineError(
                "an int8 input of unknown scale",
                expected="the real value of one step, from calibration",
                fix="build the engine again",
            )
        return CudaPreprocess(
            height=spec.input_height,
            width=spec.input_width,
            dtype=dtype,
            layout=_KERNEL_LAYOUTS.get(form, form),
            row_pitch=pitch,
            preprocessing=spec.preprocessing,
            input_scale=engine.input_scale or 1.0,
        )

    def _make_slot(self) -> Slot:
        slot = Slot(
            max_batch=self.max_batch,
            num_classes=self.spec.num_classes,
            result_shape=(self.max_batch, self._postprocess.dtype.itemsize),
            mapped=self._stager.mapped,
        )
        if (head := self.spec.segmentation) is not None:
            # Of each slot: a mask may be written again while the next call computes.
            output = self.engine.outputs[head.name]
            slot.masks = CudaMasks(head, output, max_batch=self.max_batch)
        return slot

    def _grow_results(self, max_detections: int) -> None:
        """Make room for more detections an image: new result buffers, and new graphs."""
        if self._under_way:
            raise DeviceBusyError(
                f"{len(self._under_way)} calls under way",
                expected=f"none, to make room for {max_detections} detections an image",
                fix="collect() them first",
            )
        with self._cuda_device:
            try:
                # All of it or nothing: a kernel must not write for buffers that did not come.
                room = self._postprocess.make_room(max_detections)
                shape = (self.max_batch, room.dtype.itemsize)
                buffers = [slot.make_results(shape) for slot in self._slots]
            except Exception as error:
                self._raise(error, "making room for more detections")
            self._postprocess.take_room(room)
            for slot, buffer in zip(self._slots, buffers, strict=True):
                slot.take_results(buffer)
        _LOGGER.info("%s: room for %d detections an image", self.device, max_detections)

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
            bgr = demosaic(np.ascontiguousarray(frame.on_host().rows), frame.encoding)
            return Frame.from_array(bgr, roi=frame.roi)
        raise FrameError(
            f"image encoding '{frame.encoding}'",
            expected=f"one of {', '.join(descriptors.ENCODING_CODES)}",
            fix="convert in the camera driver",
        )

    def _on_stream(self, frame: Frame) -> Frame:
        """Return a frame whose device array is CuPy's, and complete for what the stream does."""
        if frame.device_array is None:
            return frame
        frame = in_order(frame)
        if not isinstance(frame.ready, bool):
            self.stream.wait_event(frame.ready)
        with self.stream:
            # CuPy's arrays as they are; an interface without DLPack is waited for.
            array = self._cupy.asarray(frame.device_array)
        if array.device.id != self.device.cuda_index:
            raise FrameError(
                f"an image on CUDA device {array.device.id}",
                expected=f"one on device {self.device.cuda_index}, where the detector is",
                fix=f"copy it there first, or make the detector with device gpu:{array.device.id}",
            )
        return replace(frame, device_array=array)

    def _stage(
        self, slot: Slot, frames: Sequence[Frame], options: Sequence[PostprocessOptions]
    ) -> None:
        """Write the tables, copy the frames, and start their way to the device."""
        size = self.spec.input_height, self.spec.input_width
        resize = self.spec.preprocessing.resize
        letterboxes = [self._fit(f.height, f.width, *size, f.roi, resize) for f in frames]
        parts = self._stager.plan(slot, frames, letterboxes)
        slot.letterboxes, slot.options = letterboxes, options
        for index, (frame, letterbox, option) in enumerate(
            zip(frames, letterboxes, options, strict=True)
        ):
            address = parts.addresses[index]
            descriptors.pack_image(
                slot.tables,
                index * descriptors.IMAGE.size,
                frame,
                letterbox,
                color_order=self.spec.preprocessing.color_order,
                data=address.data,
                chroma=address.chroma,
                compact=address.compact,
            )
            descriptors.pack_post(
                slot.tables,
                slot.post_offset + index * descriptors.POST.size,
                letterbox,
                option,
            )
            if slot.masks is not None:
                slot.masks.ask(slot.tables, slot.mask_offset, index, letterbox, option.masks)
            slot.thresholds[index] = self._thresholds(option)
        self._stager.upload(slot, parts, self.stream)

    def _run(self, slot: Slot, batch: int) -> None:
        graph = None if self.graph_refusal else slot.graphs.get(batch)
        if graph is None and not self.graph_refusal:
            graph = self._capture(slot, batch)
        if graph is not None:
            graph.launch(self.stream)
        else:
            self._enqueue_stages(slot, batch)
        slot.done.record(self.stream)

    def _enqueue_stages(self, slot: Slot, batch: int) -> None:
        """Enqueue all the device's work on the stream."""

        def mark(stage: int) -> None:
            if self._events:
                self._events[stage].record(self.stream)

        with self.stream:
            mark(0)
            self._preprocess(slot.images, self.engine.input.data.ptr, batch)
            mark(1)
            self.engine.run(batch, self.stream)
            mark(2)
            self._postprocess(slot.posts, slot.thresholds_address, batch)
            slot.fetch(self._postprocess.results, batch, self.stream)
            if slot.masks is not None:
                slot.masks(slot.mask_jobs, batch)
            mark(3)

    def _capture(self, slot: Slot, batch: int) -> Any:
        """Capture a graph of one slot and batch; fall back to plain launches, once and for all."""
        start = time.perf_counter()
        # What is done only once (allocation, choice of algorithms) must not be captured.
        for _ in range(2):
            self._enqueue_stages(slot, batch)
        self.stream.synchronize()
        graph = None
        reason = ""
        self.stream.begin_capture()
        try:
            self._enqueue_stages(slot, batch)
        except Exception as error:
            reason = str(error)
        try:
            graph = self.stream.end_capture()
        except Exception as error:
            reason = reason or str(error)
        if reason or graph is None:
            self.graph_refusal = f"capture failed ({reason})"
            _LOGGER.warning("%s: no CUDA graph: %s", self.device, self.graph_refusal)
            self._reset()
            return None
        graph.upload(self.stream)
        slot.graphs[batch] = graph
        _LOGGER.info(
            "%s: CUDA graph for batch %d captured in %.0f ms",
            self.device,
            batch,
            (time.perf_counter() - start) * 1e3,
        )
        return graph

    def _read(self, slot: Slot, index: int) -> Detections:
        rows = slot.results.view(self._postprocess.dtype)[:, 0]
        letterbox = slot.letterboxes[index]
        if isinstance(self._postprocess, HostDecode):
            found = self._postprocess.read(rows[index], letterbox, slot.options[index])
            self.plausibility.look(found, letterbox, self._postprocess.processor.implausible)
            return found
        result = self._postprocess.read(rows, index)
        if result["overflow"]:
            self.overflowed_candidates += int(result["overflow"])
            self._warn_once(
                "overflow",
                f"{result['candidates']} candidates in one image, of which the best "
                f"{self._postprocess.capacity} entered NMS; raise max_candidates or the thresholds",
            )
        mask = None
        if slot.masks is not None:
            try:
                with self._cuda_device:
                    mask = slot.masks.read(index, slot.tables, slot.mask_offset)
            except Exception as error:
                self._raise(error, "reading a mask")
        kept = slice(int(result["count"]))
        # Copies: the slot's buffer is written again by the next call but one.
        found = Detections(
            result["boxes"][kept].copy(),
            result["scores"][kept].copy(),
            result["class_ids"][kept].copy(),
            mask=mask,
        )
        self.plausibility.look(found, letterbox, int(result["flags"]))
        return found

    # ---- when something fails

    def _reset(self) -> None:
        """Let the kernels forget a call that was cut short (enqueued on the stream)."""
        with self.stream:
            self._postprocess.reset()
            for slot in self._slots:
                if slot.masks is not None:
                    slot.masks.reset()

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            _LOGGER.warning("%s: %s", self.device, message)

    def _recover(self) -> None:
        """Bring the buffers into a state from which the next call can start, if possible."""
        try:
            if self.stream.is_capturing():
                self.stream.end_capture()
            # Copies may be under way that nothing on the compute stream waits for.
            self._stager.synchronize()
            self._reset()
            self.stream.synchronize()
        except Exception as error:
            _LOGGER.warning("%s: %s while recovering", self.device, error)
