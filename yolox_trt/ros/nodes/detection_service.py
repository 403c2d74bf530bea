# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DetectionService: what the cameras are connected to from configure to cleanup."""

from __future__ import annotations

from rclpy.node import Node

from yolox_trt.executor.inference_executor import InferenceExecutor
from yolox_trt.ros.ingest.pool import IngestPool
from yolox_trt.ros.nodes.model_set import ModelSet
from yolox_trt.ros.nodes.parameters import ExecutorParameters


class DetectionService:
    """The executor with its models, and the processes that receive images.

    Args:
        node: the executor's node.
        models: its models, loaded; closed with the service.
        parameters: what the node is configured with.

    Attributes:
        executor: the executor.
        models: its models.
        ingest: the processes that receive images; None where this one does so itself.

    Raises:
        YoloxTrtError: a parameter does not fit.
    """

    def __init__(self, node: Node, models: ModelSet, parameters: ExecutorParameters) -> None:
        self._node = node
        self.models = models
        self.executor = InferenceExecutor(
            models.detectors,
            policy=parameters.placement,
            options=parameters.scheduler,
            factory=models.create,
            max_batch=parameters.max_batch,
            contention=parameters.contention,
            profile=parameters.nvtx,
        )
        self.ingest: IngestPool | None = None
        if parameters.ingest_processes:
            self.ingest = IngestPool(
                parameters.ingest_processes,
                node.get_name(),
                page_lock=any(device.is_cuda for device in self.executor.devices),
            )

    def stop(self) -> bool:
        """Stop the workers; the engines stay loaded. Return whether all have ended."""
        return self._report(self.executor.stop())

    def close(self) -> bool:
        """Release everything; return whether every thread and process has ended by itself."""
        ended = self._report(self.executor.close())
        if self.ingest is None or self.ingest.close():
            return ended
        self._node.get_logger().error("an ingest process did not end by itself and was killed")
        return False

    def _report(self, ended: bool) -> bool:
        if not ended:
            self._node.get_logger().error("a device did not stop in 2 s; its thread is left behind")
        return ended
