# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A page in the browser: all cameras with what is found in them, devices, faults."""
