# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Tracker: gives the detections of one camera ids that they keep from image to image.

ByteTrack (Zhang et al., 2022) as edgefirst-tracker implements it; docs/decisions/tracking.md tells
why that one. What it does not know is done here: classes, times and gaps, numbers instead of UUIDs.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from yolox_trt.core.detections import Detections
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.optional import require
from yolox_trt.tracking.options import TrackingOptions

#: Least IoU of a detection with where a track should be, and the share of the Kalman gain that is
#: applied: with the library's own 0.25 and 0.25, tracks lag behind at 10 Hz.
_IOU, _GAIN = 0.1, 1.0
#: Classes are shifted apart by so many pixels that no two of their boxes overlap.
_APART = 1 << 14
#: Intervals that the camera's period is estimated from.
_INTERVALS = 15
#: Images that are made up between two at most: stamps of a burst lie microseconds apart. Each costs
#: what the square of the number of tracks does; all of them together 20 ms or so.
_MOST_STEPS, _MOST_STEPS_BY_SQUARE = 300, 900_000
#: Track numbers that are remembered before those of ended tracks are looked for.
_REMEMBERED = 256
_LOGGER = logging.getLogger(__name__)


class Tracker:
    """Tracks of one camera. One thread at a time, images in the order of their stamps.

    A track begins with the second detection of an object. Objects of different classes are never
    one track. The ids of a Tracker are never given twice.

    Args:
        options: `tracking` must not be none.
        camera: name for the log.

    Raises:
        MissingDependencyError: edgefirst-tracker is missing.
    """

    def __init__(self, options: TrackingOptions, camera: str = "") -> None:
        self._library: Any = require("edgefirst.tracker", purpose="tracking")
        self._options = options
        self._camera = camera
        self._told = False
        self._lifespan = int(options.track_seconds * 1e9)
        self._new_id = itertools.count(1)
        self._slots: dict[int, int] = {}
        self._origin: int | None = None
        self._last: int | None = None
        self._alive: int = 0
        self._begin()

    def update(self, detections: Detections, stamp_ns: int) -> Detections:
        """Return the detections of the next image, in their order, with track ids.

        Args:
            detections: as the detector gave them.
            stamp_ns: when the image was taken, nanoseconds; any clock that goes on evenly.
        """
        if self._alive > LIMITS.tracks:
            self._tell_of_too_many()
            self._begin()
        elif self._last is not None:
            elapsed = stamp_ns - self._last
            if not 0 <= elapsed <= self._lifespan:
                self._begin()
            elif elapsed:
                self._pass(elapsed)
        self._last = stamp_ns
        if self._origin is None:
            self._origin = stamp_ns
        now = stamp_ns - self._origin  # the library's times are not negative
        class_ids = detections.class_ids.tolist()
        slots = [self._slots.setdefault(class_id, len(self._slots)) for class_id in class_ids]
        boxes = detections.boxes + np.multiply.outer(slots, (_APART, 0, _APART, 0))
        found = self._update(boxes.astype(np.float32), detections.scores, now)
        self._alive = len(self._tracks.get_active_tracks())
        ids = [
            0
            if track is None or track.created == now
            else self._ids.get(track.uuid) or self._begin_track(track.uuid)
            for track in found
        ]
        return replace(detections, track_ids=np.array(ids, np.int32))

    def _begin(self) -> None:
        """Forget all tracks."""
        self._tracks = self._library.ByteTrack(
            high_conf=self._options.track_score,
            iou=_IOU,
            update=_GAIN,
            lifespan_ns=self._lifespan,
        )
        self._alive = 0
        self._ids: dict[str, int] = {}
        self._origin = self._last = None
        self._intervals: deque[int] = deque(maxlen=_INTERVALS)

    def _pass(self, elapsed: int) -> None:
        """Let the time between two images pass.

        The library predicts by one step an image, whatever its stamp. So images that are missing
        between the last and this one are made up, without detections.
        """
        self._intervals.append(elapsed)
        most = min(_MOST_STEPS, _MOST_STEPS_BY_SQUARE // max(self._alive, 1) ** 2)
        steps = min(round(elapsed / median(self._intervals)), most)
        assert self._last is not None and self._origin is not None
        last = self._last - self._origin
        for step in range(1, steps):
            self._update(_NO_BOXES, _NO_SCORES, last + elapsed * step // steps)

    def _tell_of_too_many(self) -> None:
        """Warn, once: boxes that are seen once stay, and time goes with the square of them."""
        if not self._told:
            self._told = True
            _LOGGER.warning(
                "%s%d tracks at a time; expected %d at most: they begin anew; fix: raise "
                "`score_threshold` if the boxes are false, or lower `track_seconds`",
                f"camera '{self._camera}': " if self._camera else "",
                self._alive,
                LIMITS.tracks,
            )

    def _update(self, boxes: Any, scores: Any, now: int) -> Any:
        # The labels are not looked at.
        return self._tracks.update(boxes, scores, np.zeros(len(scores), np.uintp), now)

    def _begin_track(self, uuid: str) -> int:
        if len(self._ids) >= _REMEMBERED:
            alive = {track.info.uuid for track in self._tracks.get_active_tracks()}
            self._ids = {each: number for each, number in self._ids.items() if each in alive}
        self._ids[uuid] = next(self._new_id)
        return self._ids[uuid]


_NO_BOXES, _NO_SCORES = np.empty((0, 4), np.float32), np.empty(0, np.float32)


def make_tracker(options: TrackingOptions, camera: str = "") -> Tracker | None:
    """Return a Tracker, or None where nothing shall be tracked; see Tracker."""
    return None if options.tracking == "none" else Tracker(options, camera)
