# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Convolutions over the limits of a DLA."""

from __future__ import annotations

import pytest
from support.onnx_graphs import make_graph, operators
from support.passes import apply, check, normal

from yolox_trt.compiler.surgery import conv_splitting
from yolox_trt.compiler.surgery.conv_splitting import ConvSplitting
from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.graph.graph import Graph


class TestConvSplitting:
    @staticmethod
    def conv(cin: int, cout: int, groups: int = 1, kernel: int = 3, width: int = 8, bias=True):
        constants = {"w": normal(cout, cin // groups, kernel, kernel)}
        inputs = ["x", "w"]
        if bias:
            constants["b"] = normal(cout)
            inputs.append("b")
        attrs = {"group": groups, "pads": [kernel // 2] * 4}
        return make_graph(
            [("Conv", inputs, ["y"], attrs)], {"x": (1, cin, 4, width)}, ["y"], constants
        )

    @pytest.mark.parametrize(("groups", "most", "count"), [(8, 4, 2), (8, 1, 8), (6, 4, 2)])
    @pytest.mark.parametrize("bias", [True, False])
    def test_groups(self, groups, most, count, bias) -> None:
        model = self.conv(24, 48, groups, bias=bias)
        result = check(ConvSplitting(SurgeryOptions(max_groups=most)), model)
        found = operators(result.model)
        assert found == {"Slice": count, "Conv": count, "Concat": 1}

    @pytest.mark.parametrize("groups", [-1, 5, 2**63 - 1])
    def test_groups_that_do_not_divide_the_weights(self, groups) -> None:
        model = self.conv(24, 48, 6)
        model.graph.node[0].attribute[0].i = groups
        assert not apply(ConvSplitting(SurgeryOptions(max_groups=1)), model).changes

    def test_output_maps_over_the_limit(self) -> None:
        model = self.conv(1, 9000, kernel=1)
        found = operators(check(ConvSplitting(), model).model)
        assert found == {"Conv": 2, "Concat": 1}

    def test_the_convolution_buffer(self) -> None:
        # 512 channels of 640 columns, 5 rows: far over 16 banks.
        model = self.conv(512, 4, kernel=5, width=640)
        result = check(ConvSplitting(), model, tolerance=1e-5)
        found = operators(result.model)
        assert found["Conv"] > 1 and found["Add"] == found["Conv"] - 1

    def test_what_is_counted_are_the_channels_of_the_weights(self, monkeypatch) -> None:
        """An input may say that it has 67 million, and each number of parts was tried."""
        tried = []
        monkeypatch.setattr(conv_splitting, "cbuf_banks", lambda *a: tried.append(a) or (99, 99))
        model = self.conv(6, 4)
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1000
        ConvSplitting().run(Graph(model))
        assert len(tried) == 6

    def test_within_the_limits_nothing_changes(self) -> None:
        assert not apply(ConvSplitting(), self.conv(64, 64, 64)).changes
