# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Surgery passes on models, as tests use them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from yolox_trt.compiler.surgery import SurgeryPass
from yolox_trt.graph.graph import Graph


@dataclass(frozen=True)
class Applied:
    """What a pass made of a model (checked as `optimize` checks it), and what it says of it."""

    model: onnx.ModelProto
    changes: list[str]
    notes: list[str]


def apply(rewrite: SurgeryPass, model: onnx.ModelProto) -> Applied:
    """Apply a pass to a copy of a model; a pass that changed nothing leaves the model given."""
    graph = Graph(model)
    graph.upgrade()
    log = rewrite.run(graph)
    untouched = graph.to_model()
    graph.check()
    if log.changes:
        return Applied(graph.to_model(), log.changes, log.notes)
    before = Graph(model)
    before.upgrade()
    before.sort()
    assert len(untouched.graph.node) == len(before.nodes)
    return Applied(model, log.changes, log.notes)
