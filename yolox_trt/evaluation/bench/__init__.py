# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks, one module each: measure(options, on_progress) runs one and returns its Report."""
