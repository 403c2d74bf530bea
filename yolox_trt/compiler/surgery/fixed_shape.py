# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""FixedShape: batch, height and width of the input become given numbers."""

from __future__ import annotations

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.graph.fixed_size import fix_size
from yolox_trt.graph.graph import Graph


class FixedShape(SurgeryPass):
    """Set the input's dimensions and derive again every constant that was written for the old ones.

    Args:
        batch: images in one run; None leaves it as it is.
        height: rows of the input in pixels; None leaves it as it is.
        width: columns of the input in pixels; None leaves it as it is.
        multiple: height and width must be multiples of it.
    """

    name = "fix-shape"
    summary = "fixed batch and H x W; constants of the old size derived again"

    def __init__(
        self,
        batch: int | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        multiple: int = 32,
    ) -> None:
        for label, value, step in (
            ("batch", batch, 1),
            ("height", height, multiple),
            ("width", width, multiple),
        ):
            if value is not None and (value < 1 or value % step):
                raise ConfigurationError(
                    f"{label} = {value}",
                    expected=f"a positive multiple of {step}",
                    fix=f"give another {label} (`--batch`, `--input-size HxW`)",
                )
        self.dimensions = (batch, height, width)

    def rewrite(self, graph: Graph, log: PassLog) -> None:
        log.changes += fix_size(graph, *self.dimensions)
