# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Several models on one input as one."""

from __future__ import annotations

import numpy as np
import pytest
from support.onnx_graphs import run
from support.yolox_graphs import build_yolox, random_images

from yolox_trt.compiler.surgery import (
    merge_models,
)
from yolox_trt.core.errors import ModelError


class TestMerging:
    def test_outputs_of_both_and_a_shared_backbone(self) -> None:
        first, second = build_yolox(), build_yolox(num_classes=3)
        merged = merge_models({"cars": first, "lights": second})
        assert [i.name for i in merged.graph.input] == ["images"]
        feeds = random_images(first)
        found = run(merged, feeds)
        np.testing.assert_array_equal(found["cars/output"], run(first, feeds)["output"])
        np.testing.assert_array_equal(found["lights/output"], run(second, feeds)["output"])
        # Both were generated from one seed: all but the heads is the same.
        assert len(merged.graph.node) < 1.3 * len(first.graph.node)

    def test_different_networks_share_nothing(self) -> None:
        first, second = build_yolox(), build_yolox(seed=1, activation="relu6", stem="conv")
        merged = merge_models({"a": first, "b": second})
        feeds = random_images(first)
        found = run(merged, feeds)
        np.testing.assert_array_equal(found["b/output"], run(second, feeds)["output"])

    def test_open_batches_of_other_names_are_one(self) -> None:
        models = {key: build_yolox(style="opset13", batch=None, width=0.125) for key in "ab"}
        models["b"].graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
        merged = merge_models(models)
        outputs = run(merged, random_images(models["a"], batch=2))
        np.testing.assert_array_equal(outputs["a/output"], outputs["b/output"])

    def test_metadata_keep_their_prefix(self) -> None:
        merged = merge_models({k: build_yolox(metadata=True, seed=i) for i, k in enumerate("ab")})
        keys = {p.key for p in merged.metadata_props}
        assert {"a/yolox_trt.strides", "b/yolox_trt.class_names"} <= keys

    @pytest.mark.parametrize(
        ("other", "match"),
        [
            ({"height": 96}, "--input-size"),
            ({"batch": 2}, "1x3x64x96"),
            ({"style": "opset13"}, "opset"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, other, match) -> None:
        with pytest.raises(ModelError, match=match):
            merge_models({"a": build_yolox(), "b": build_yolox(**other)})

    def test_one_model_is_refused(self) -> None:
        with pytest.raises(ModelError, match="two or more"):
            merge_models({"a": build_yolox()})
