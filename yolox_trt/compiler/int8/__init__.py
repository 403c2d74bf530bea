# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""INT8: activation statistics, calibration, equalisation, Q/DQ placement, TensorRT caches.

Symmetric quantisation as TensorRT does it: q = clip(round(x / scale), -128, 127) with
scale = amax / 127, one scale a tensor for activations, one an output channel for weights.
"""
