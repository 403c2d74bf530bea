# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Multi-camera YOLOX detection for ROS 2 on GPU, DLA and CPU."""

__version__ = "0.1.0"
