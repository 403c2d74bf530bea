# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""dla-check names the passes that mend something, and none that would leave it."""

from __future__ import annotations

from pathlib import Path

import onnx
from support.yolox_graphs import build_yolox

from yolox_trt.compiler.dla import check
from yolox_trt.compiler.dla.options import DlaTarget
from yolox_trt.compiler.surgery.mending import keep_what_is_mended


def mends(model: onnx.ModelProto, path: Path) -> dict[str, set[str]]:
    """Return the passes that are named for each operator that falls back."""
    onnx.save(model, str(path))
    report = keep_what_is_mended(check(path), path, DlaTarget())
    found: dict[str, set[str]] = {}
    for node in report.fallback_nodes:
        found.setdefault(node.op, set()).update(v.mended_by for v in node.reasons)
    return found


def test_what_a_pass_leaves_is_not_said_to_be_mended(tmp_path: Path) -> None:
    model = build_yolox(width=0.125, num_classes=3)
    whole = mends(model, tmp_path / "whole.onnx")
    assert whole["Slice"] == {"focus-to-conv"} and whole["MaxPool"] == {"spp-to-chain"}
    # A Focus with a dilated convolution has no equal convolution.
    stem = next(node for node in model.graph.node if node.op_type == "Conv")
    for attribute in stem.attribute:
        if attribute.name in ("pads", "dilations"):
            attribute.ints[:] = [2] * len(attribute.ints)
    assert "dilations" in {attribute.name for attribute in stem.attribute}
    left = mends(model, tmp_path / "dilated.onnx")
    assert left.pop("Slice") == {""}
    assert left == {op: found for op, found in whole.items() if op != "Slice"}


def test_a_model_that_optimize_refuses_is_mended_by_nothing(tmp_path: Path) -> None:
    model = build_yolox(width=0.125, num_classes=3)
    # onnx's checker refuses it, which only surgery asks.
    model.graph.node[-1].attribute.append(onnx.helper.make_attribute("unheard_of", 1))
    assert all(found == {""} for found in mends(model, tmp_path / "broken.onnx").values())
