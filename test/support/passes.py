# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Surgery passes on models, as tests use them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from support.onnx_graphs import operators, random_feeds, run, worst

from yolox_trt.compiler.surgery import SurgeryPass
from yolox_trt.graph.graph import Graph

RNG = np.random.default_rng(3)


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


def normal(*shape: int) -> np.ndarray:
    """Return normal random float32, others at each call."""
    return RNG.normal(size=shape).astype(np.float32)


def check(
    rewrite: SurgeryPass,
    model: onnx.ModelProto,
    *,
    tolerance: float = 1e-6,
    expected: dict[str, int] | None = None,
) -> Applied:
    """Apply a pass, and compare its outputs with the model's and its operators with those given."""
    result = apply(rewrite, model)
    feeds = random_feeds(model)
    assert worst(run(model, feeds), run(result.model, feeds)) <= tolerance
    if expected is not None:
        assert operators(result.model) == expected
    return result
