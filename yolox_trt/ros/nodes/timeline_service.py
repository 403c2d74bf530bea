# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""TimelineService: ~/timeline writes what the executor has done in the last seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rclpy.node import Node
from std_srvs.srv import Trigger

from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.executor.inference_executor import InferenceExecutor
from yolox_trt.planning.gantt import dump_timeline
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.nodes.parameters import ExecutorParameters


class TimelineService:
    """The service ~/timeline (std_srvs/Trigger): a trace at once, a picture in the background.

    Args:
        node: the executor's node.
        parameters: gives its present parameters.
        executor: gives the executor; None before the node is configured.
    """

    def __init__(
        self,
        node: Node,
        parameters: Callable[[], ExecutorParameters],
        executor: Callable[[], InferenceExecutor | None],
    ) -> None:
        self._node = node
        self._parameters = parameters
        self._executor = executor
        node.create_service(Trigger, "~/timeline", self._answer)

    def _answer(self, request: Any, response: Any) -> Any:
        executor, parameters = self._executor(), self._parameters()
        response.success = False
        if executor is None:
            response.message = "not configured; fix: ros2 lifecycle set the node to configure"
            return response
        seconds = parameters.timeline_seconds
        folder = Path(parameters.timeline_folder or ".").expanduser().resolve()
        base = folder / f"timeline_{time.strftime('%Y%m%d_%H%M%S')}"
        try:
            self._write(executor, base.with_suffix(".json"), seconds)
        except (YoloxTrtError, OSError) as error:
            response.message = error_text(error)
            return response
        # matplotlib takes about a second: long enough to lose images in this thread.
        threading.Thread(
            target=self._draw,
            args=(executor, base.with_suffix(".png"), seconds),
            name="draw timeline",
            daemon=True,
        ).start()
        response.success = True
        response.message = f"{base}.json written, {base.name}.png follows"
        return response

    def _write(self, executor: InferenceExecutor, path: Path, seconds: float) -> None:
        dump_timeline(executor.timeline, path, seconds, devices=executor.devices)

    def _draw(self, executor: InferenceExecutor, path: Path, seconds: float) -> None:
        try:
            self._write(executor, path, seconds)
            self._node.get_logger().info(f"{path} written")
        except (YoloxTrtError, OSError) as error:
            self._node.get_logger().error(f"{path} could not be drawn: {error_text(error)}")
