# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Model compiler: ONNX surgery, DLA linter, inspector, INT8, engine building."""
