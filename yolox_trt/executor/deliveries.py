# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Delivery: a frame that a device has worked on, and whose callback is due."""

from __future__ import annotations

from typing import NamedTuple

from yolox_trt.core.detections import Detections
from yolox_trt.executor.device_state import Batch
from yolox_trt.executor.stream import PendingFrame, Stream
from yolox_trt.executor.stream_result import ResultTiming, StreamResult


class Delivery(NamedTuple):
    """A frame of a finished call. Its stream is busy until the callback has returned.

    Attributes:
        stream: the stream.
        pending: the frame; its `failure` tells why it gives no result.
        batch: the call.
        detections: the result, None if there is none.
    """

    stream: Stream
    pending: PendingFrame
    batch: Batch
    detections: Detections | None

    @property
    def name(self) -> str:
        """The callback that is due."""
        return "on_result" if self.pending.failure is None else "on_drop"

    def call_back(self) -> None:
        """Call it, where the stream has it. The caller holds no lock."""
        stream, failure = self.stream, self.pending.failure
        if failure is None:
            stream.call_back("on_result", self._give_result)
        elif stream.on_drop is not None:
            stream.call_back("on_drop", stream.on_drop, self.pending.frame, failure)

    def _give_result(self) -> None:
        stream, pending, batch, detections = self
        assert detections is not None
        frame = pending.frame
        if frame.reduction != 1:
            detections = detections.enlarged(frame.reduction, *frame.source_size)
        timing = ResultTiming(
            pending.received,
            pending.submitted,
            batch.started,
            batch.ended,
            batch.stages,
            len(batch.frames),
        )
        late = batch.ended > pending.deadline
        result = StreamResult(frame, detections, batch.state.device, batch.model.name, timing, late)
        stream.on_result(result)
