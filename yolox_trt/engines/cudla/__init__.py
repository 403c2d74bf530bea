# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""cuDLA: a DLA core without TensorRT's runtime."""
