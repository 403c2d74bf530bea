# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ROS 2 nodes, messages, bags: the only room that imports rclpy."""
