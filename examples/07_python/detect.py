# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Print what the shipped model sees in the images that are named on the command line."""

import sys

from yolox_trt.core.frame import Frame
from yolox_trt.core.images import read_image
from yolox_trt.core.labels import COCO_CLASSES
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions

detector = create_detector(DetectorOptions())
options = PostprocessOptions(score_threshold=0.3)
for path in sys.argv[1:]:
    (detections,) = detector.detect([Frame.from_array(read_image(path))], [options])
    for box, score, class_id in zip(
        detections.boxes, detections.scores, detections.class_ids, strict=True
    ):
        x1, y1, x2, y2 = box.round().astype(int)
        print(f"{path}: {COCO_CLASSES[class_id]} {score:.2f} at {x1},{y1} to {x2},{y2}")
detector.close()
