# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""PyTorch model definitions, distillation and quantisation-aware training (extra `train`)."""
