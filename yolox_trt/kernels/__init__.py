# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Preprocess, decode and NMS: CUDA kernels and the NumPy/OpenCV reference that they equal."""
