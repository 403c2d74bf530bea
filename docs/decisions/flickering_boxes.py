# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Time what tracking takes of boxes that are each seen once; docs/tracking.md shows the result.

python docs/decisions/flickering_boxes.py
"""

import time

import numpy as np

from yolox_trt.core.detections import Detections
from yolox_trt.tracking.options import TrackingOptions
from yolox_trt.tracking.tracker import Tracker

RATE, IMAGES = 30, 90
rng = np.random.default_rng(1)
for count in (50, 100, 300):
    tracker, taken = Tracker(TrackingOptions(tracking="bytetrack")), []
    for number in range(IMAGES):
        corner, size = rng.uniform(0, 1200, (count, 2)), rng.uniform(10, 60, (count, 2))
        detections = Detections(
            np.hstack([corner, corner + size]).astype(np.float32),
            rng.uniform(0.41, 0.9, count).astype(np.float32),
            rng.integers(0, 8, count).astype(np.int32),
        )
        begin = time.perf_counter()
        tracker.update(detections, 10**18 + number * 10**9 // RATE)
        taken.append((time.perf_counter() - begin) * 1e3)
    median, most = np.median(taken), max(taken)
    print(f"{count} boxes at {RATE} Hz: median {median:.1f} ms an image, most {most:.1f} ms")
