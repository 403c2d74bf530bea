# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Batch work over thousands of recordings, in this process or on a Ray cluster."""
