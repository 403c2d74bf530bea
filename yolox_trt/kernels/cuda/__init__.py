# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Fused CUDA kernels and their CuPy wrappers. Equal to kernels.reference, and tested against it.

CuPy is imported where a kernel is used, so that the package imports on a machine without a GPU.
"""
