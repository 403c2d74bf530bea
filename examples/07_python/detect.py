# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Print what the shipped model sees in the images that are named on the command line."""

import sys

import yolox_trt

with yolox_trt.Detector(score=0.3) as detector:
    for result in detector(sys.argv[1:], stream=True):
        for box in result:
            x1, y1, x2, y2 = map(round, box.xyxy)
            print(f"{result.path}: {box.name} {box.score:.2f} at {x1},{y1} to {x2},{y2}")
