# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""LogBridge: what the rooms below log through Python's logging appears in the ROS log."""

from __future__ import annotations

import logging
from typing import Any

from yolox_trt.core.limits import LineFormatter


class LogBridge(logging.Handler):
    """A handler on the package's logger that hands records to a ROS logger.

    Args:
        logger: the ROS logger of a node.
    """

    def __init__(self, logger: Any) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(LineFormatter())
        self._ros = logger
        self._package = logging.getLogger("yolox_trt")
        self._level_before = self._package.level
        self._package.addHandler(self)
        if self._package.getEffectiveLevel() > logging.INFO:
            self._package.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record with the severity that comes closest."""
        try:
            text = self.format(record)
            # rclpy ties a severity to the line that logs: each one needs a line of its own.
            if record.levelno >= logging.CRITICAL:
                self._ros.fatal(text)
            elif record.levelno >= logging.ERROR:
                self._ros.error(text)
            elif record.levelno >= logging.WARNING:
                self._ros.warning(text)
            else:
                self._ros.info(text)
        except Exception:  # rclpy's context may be gone; who has logged must go on
            self.handleError(record)

    def close(self) -> None:
        """Take the handler off again."""
        self._package.removeHandler(self)
        self._package.setLevel(self._level_before)
        super().close()
