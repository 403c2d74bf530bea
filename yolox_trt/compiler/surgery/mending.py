# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Which of a DLA's fallbacks the passes really mend, found by trying them."""

from __future__ import annotations

import contextlib
from dataclasses import fields, replace
from pathlib import Path

from yolox_trt.compiler.dla.linter import check
from yolox_trt.compiler.dla.options import DlaTarget
from yolox_trt.compiler.dla.report import DlaReport
from yolox_trt.compiler.dla.rules import Rule
from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.compiler.surgery.pipeline import PASSES, optimize
from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.graph import Graph


@refuses_damaged
def keep_what_is_mended(
    report: DlaReport, model: str | Path | Graph, target: DlaTarget
) -> DlaReport:
    """Take the name of a pass back wherever `optimize` leaves the node as it is.

    Args:
        report: of the model, with the passes that usually mend a broken rule.
        model: the model, which is not changed.
        target: the DLA that the report is for.
    """
    if not set(report.mending_passes) & PASSES.keys():
        return report
    chosen = {field.name: getattr(target, field.name) for field in fields(target)}
    options = SurgeryOptions(**{**chosen, "target": "dla"})
    effective: set[str] = set()  # none where `optimize` refuses the model
    left: set[tuple[str, str]] = set()
    with contextlib.suppress(YoloxTrtError):
        result = optimize(model, options, verify=False)
        effective = {log.name for log in result.report.passes if log.changes}
        after = check(result.model, target)
        left = {(node.name, rule.rule) for node in after.nodes for rule in node.violations}

    def mended(name: str, rule: Rule) -> Rule:
        works = rule.mended_by in effective and (name, rule.rule) not in left
        return rule if works or rule.mended_by not in PASSES else replace(rule, mended_by="")

    nodes = (
        replace(node, violations=tuple(mended(node.name, rule) for rule in node.violations))
        for node in report.nodes
    )
    return replace(report, nodes=tuple(nodes))
