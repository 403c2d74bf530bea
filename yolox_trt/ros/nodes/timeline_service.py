# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""~/timeline (std_srvs/Trigger) writes what the executor has done in the last seconds."""

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


def create_timeline_service(
    node: Node, state: Callable[[], tuple[ExecutorParameters, InferenceExecutor | None]]
) -> None:
    """Create the service: a trace is written at once, a picture in the background.

    Args:
        node: the executor's node.
        state: gives its parameters and its executor; None before it is configured.
    """

    def answer(request: Any, response: Any) -> Any:
        parameters, executor = state()
        if executor is None:
            response.message = "not configured; fix: ros2 lifecycle set the node to configure"
            return response
        folder = Path(parameters.timeline_folder or ".").expanduser().resolve()
        base = folder / f"timeline_{time.strftime('%Y%m%d_%H%M%S')}"

        def write(suffix: str) -> str:
            """Write a file; return why it could not be written, "" where it was."""
            seconds, path = parameters.timeline_seconds, base.with_suffix(suffix)
            try:
                dump_timeline(executor.timeline, path, seconds, devices=executor.devices)
            except (YoloxTrtError, OSError) as error:
                return error_text(error)
            return ""

        def draw() -> None:
            if reason := write(".png"):
                node.get_logger().error(f"{base}.png could not be drawn: {reason}")
            else:
                node.get_logger().info(f"{base}.png written")

        response.message = write(".json")
        if not response.message:
            # matplotlib takes about a second: long enough to lose images in this thread.
            threading.Thread(target=draw, name="draw timeline", daemon=True).start()
            response.success = True
            response.message = f"{base}.json written, {base.name}.png follows"
        return response

    node.create_service(Trigger, "~/timeline", answer)
