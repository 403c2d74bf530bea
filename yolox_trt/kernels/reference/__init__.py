# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The definitions that every kernel must equal, in NumPy (OpenCV only for demosaicing)."""
