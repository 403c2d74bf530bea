# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Per-channel factors behind a convolution."""

from __future__ import annotations

import numpy as np
import pytest
from support.onnx_graphs import make_graph, operators, run, worst
from support.passes import RNG, apply, check, normal
from support.yolox_graphs import build_yolox, random_images

from yolox_trt.compiler.surgery.batch_norm_fusion import BatchNormFusion


class TestBatchNorm:
    def constants(self, channels: int, prefix: str = "") -> dict[str, np.ndarray]:
        return {
            f"{prefix}gamma": RNG.uniform(0.5, 2, channels).astype(np.float32),
            f"{prefix}beta": normal(channels),
            f"{prefix}mean": normal(channels),
            f"{prefix}var": RNG.uniform(0.1, 2, channels).astype(np.float32),
        }

    @pytest.mark.parametrize("groups", [1, 2, 6])
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
    def test_is_exact(self, groups, bias, op) -> None:
        out = 12
        shape = (out, 6 // groups, 3, 3) if op == "Conv" else (6, out // groups, 3, 3)
        constants = {"w": normal(*shape), **self.constants(out)}
        inputs = ["x", "w"]
        if bias:
            constants["b"] = normal(out)
            inputs.append("b")
        nodes = [
            (op, inputs, ["c"], {"group": groups, "pads": [1] * 4}),
            ("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["y"], {"epsilon": 1e-3}),
        ]
        model = make_graph(nodes, {"x": (2, 6, 9, 7)}, ["y"], constants)
        check(BatchNormFusion(), model, tolerance=1e-6, expected={op: 1})

    def test_per_channel_mul_and_add(self) -> None:
        nodes = [
            ("Conv", ["x", "w"], ["c"], {}),
            ("Mul", ["c", "m"], ["d"], {}),
            ("Add", ["a", "d"], ["y"], {}),
        ]
        constants = {"w": normal(5, 3, 1, 1), "m": normal(1, 5, 1, 1), "a": normal(5, 1, 1)}
        model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], constants)
        check(BatchNormFusion(), model, expected={"Conv": 1})

    def test_a_second_reader_keeps_both(self) -> None:
        nodes = [
            ("Conv", ["x", "w"], ["c"], {}),
            ("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"], {}),
            ("Add", ["c", "n"], ["y"], {}),
        ]
        constants = {"w": normal(5, 3, 1, 1), **self.constants(5)}
        model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], constants)
        assert not check(BatchNormFusion(), model).changes

    def test_a_row_of_constants_is_not_per_channel(self) -> None:
        nodes = [("Conv", ["x", "w"], ["c"], {}), ("Mul", ["c", "m"], ["y"], {})]
        constants = {"w": normal(4, 3, 1, 1), "m": normal(4)}  # along W, which is 4 too
        model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], constants)
        assert not check(BatchNormFusion(), model).changes

    def test_a_whole_network(self) -> None:
        model = build_yolox(batch_norm=True)
        result = apply(BatchNormFusion(), model)
        assert "BatchNormalization" not in operators(result.model)
        feeds = random_images(model)
        assert worst(run(model, feeds), run(result.model, feeds)) < 1e-5
