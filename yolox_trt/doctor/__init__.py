# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What an installation has, and the command that mends what it lacks."""

from yolox_trt.core.check import Check, Status
from yolox_trt.doctor.examination import examine

__all__ = ["Check", "Status", "examine"]
