#!/bin/bash
# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
# Source ROS and the workspace, then become the command: signals reach it.
set -e
. "/opt/ros/${ROS_DISTRO}/setup.bash"
. /workspace/install/setup.bash
exec "$@"
