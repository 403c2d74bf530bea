# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Weights in our modules, and rewrites that must not change the function."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.graph.graph import Graph
from yolox_trt.training.export import export_onnx
from yolox_trt.training.model_config import CONFIGS
from yolox_trt.training.weights import (
    depthwise_to_full,
    focus_to_conv,
    fold_batch_norm,
    insert_batch_norm,
    load_onnx_weights,
    load_teacher,
    rewrite,
)
from yolox_trt.training.yolox import YOLOX, flatten_outputs


def student_config(**changes: Any) -> Any:
    config = CONFIGS["yolox_nano"].dla_ready()
    return replace(config, norm=False, separable="full", activation="silu", **changes)


def test_published_weights_give_onnxruntimes_outputs(teacher: Any, teacher_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    x = torch.rand(1, 3, 416, 416) * 255
    (expected,) = ort.InferenceSession(str(teacher_path)).run(None, {"images": x.numpy()})
    with torch.no_grad():
        ours = flatten_outputs(teacher(x))
    # The published graph applies the sigmoid to objectness and classes, ours returns logits.
    ours[..., 4:] = ours[..., 4:].sigmoid()
    assert np.abs(ours.numpy() - expected).max() < 1e-4


def test_load_names_both_counts_when_the_network_is_another(teacher_path: Path) -> None:
    model = YOLOX(replace(CONFIGS["yolox_m"], norm=False))
    with pytest.raises(ModelError, match="113 convolutions"):
        load_onnx_weights(model, Graph.load(teacher_path))


def test_a_teacher_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "teacher.onnx"
    with pytest.raises(ModelError, match="no file"):
        load_teacher(path)
    path.write_bytes(b"not a network")
    with pytest.raises(ModelError, match="cannot be read as ONNX"):
        load_teacher(path)
    with pytest.raises(ConfigurationError, match=r"yolox_huge.*yolox_nano"):
        load_teacher(path, "yolox_huge")


def test_a_teacher_with_classes_of_its_own(tmp_path: Path) -> None:
    names, size = ("ball", "block"), (64, 64)
    config = replace(CONFIGS["yolox_nano"], norm=False, num_classes=2, input_size=size)
    path = tmp_path / "teacher.onnx"
    export_onnx(YOLOX(replace(config, class_names=names)).eval(), path)
    teacher = load_teacher(path)
    assert teacher.config.num_classes == 2
    assert teacher.config.class_names == names


def test_weights_that_other_nodes_compute_are_refused(teacher_path: Path, tmp_path: Path) -> None:
    import onnx

    proto = onnx.load(str(teacher_path))
    conv = next(node for node in proto.graph.node if node.op_type == "Conv")
    proto.graph.node.insert(0, onnx.helper.make_node("Neg", [conv.input[1]], ["computed"]))
    conv.input[1] = "computed"
    path = tmp_path / "half.onnx"
    onnx.save(proto, str(path))
    with pytest.raises(
        ModelError, match=r"weights of .* that other nodes compute.*expected weights as float32"
    ):
        load_teacher(path)


def test_conv_stem_equals_focus() -> None:
    x = torch.rand(2, 3, 32, 48, dtype=torch.float64)
    weight = torch.randn(5, 12, 3, 3, dtype=torch.float64)
    parts = [x[..., r::2, c::2] for r, c in ((0, 0), (1, 0), (0, 1), (1, 1))]
    focus = torch.nn.functional.conv2d(torch.cat(parts, 1), weight, padding=1)
    conv = torch.nn.functional.conv2d(x, focus_to_conv(weight), stride=2, padding=2)
    assert torch.allclose(focus, conv, atol=1e-12)


def test_full_convolution_equals_depthwise() -> None:
    x = torch.rand(1, 6, 9, 7, dtype=torch.float64)
    weight = torch.randn(6, 1, 3, 3, dtype=torch.float64)
    depthwise = torch.nn.functional.conv2d(x, weight, padding=1, groups=6)
    full = torch.nn.functional.conv2d(x, depthwise_to_full(weight), padding=1)
    assert torch.allclose(depthwise, full, atol=1e-12)


def test_dla_ready_superset_starts_as_the_teacher(teacher: Any) -> None:
    student = rewrite(teacher, student_config()).eval()
    x = torch.rand(1, 3, 96, 128) * 255
    with torch.no_grad():
        difference = flatten_outputs(student(x)) - flatten_outputs(teacher(x))
    assert difference.abs().max() < 2e-4
    kinds = {type(m).__name__ for m in student.modules()}
    assert "Focus" not in kinds
    assert all(m.kernel_size <= 8 for m in student.modules() if isinstance(m, torch.nn.MaxPool2d))
    assert all(m.groups == 1 for m in student.modules() if isinstance(m, torch.nn.Conv2d))


def test_rewrite_refuses_another_width(teacher: Any) -> None:
    with pytest.raises(ModelError, match="rewritten"):
        rewrite(teacher, student_config(width=0.5))


def test_batch_norm_comes_and_goes_without_a_change(teacher: Any) -> None:
    x = torch.rand(2, 3, 96, 96) * 255
    normed = insert_batch_norm(teacher, x).eval()
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in normed.modules())
    folded = fold_batch_norm(normed)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    with torch.no_grad():
        expected = flatten_outputs(teacher(x))
        assert (flatten_outputs(normed(x)) - expected).abs().max() < 1e-3
        assert (flatten_outputs(folded(x)) - expected).abs().max() < 1e-3
