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

    def call_back(self) -> None:
        """Make the callback that is due, where the stream has it. The caller holds no lock."""
        stream, pending, _, detections = self
        if detections is None or pending.failure is not None:
            if stream.on_drop is not None:
                stream.call_back("on_drop", stream.on_drop, pending.frame, pending.failure)
        elif pending.frame.reduction == 1:
            stream.call_back("on_result", stream.on_result, self._result(detections))
        else:  # what cannot be enlarged is an error of this frame
            stream.call_back("on_result", self._enlarge, detections)

    def _enlarge(self, detections: Detections) -> None:
        frame = self.pending.frame
        enlarged = detections.enlarged(frame.reduction, *frame.source_size)
        self.stream.on_result(self._result(enlarged))

    def _result(self, detections: Detections) -> StreamResult:
        _, pending, batch, _ = self
        timing = ResultTiming(
            pending.received,
            pending.submitted,
            batch.started,
            batch.ended,
            batch.stages,
            len(batch.frames),
        )
        return StreamResult(
            pending.frame,
            detections,
            batch.state.device,
            batch.model.name,
            timing,
            batch.ended > pending.deadline,
        )
