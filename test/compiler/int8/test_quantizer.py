# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The whole way: what is refused before any image is read."""

import pytest
from support.int8_graphs import convolution, half_input

from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.options import QuantizeOptions
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.int8.quantizer import quantize
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.graph.float16 import to_float16


def test_fixed_ranges_of_equalised_channels_are_refused():
    """The Mul of an equalised tensor has no bound, and the product of both would be useless."""
    with pytest.raises(ConfigurationError, match=r"equalised.*leave out `equalize`, or set `algo"):
        QuantizeOptions(algorithm="fixed", equalize=0.75)


def test_a_model_in_fp16_is_not_quantised():
    with pytest.raises(ModelError, match=r"weights in FP16.*FP32 model"):
        insert_qdq(half_input(), DynamicRanges.from_amax({"x": 4.0, "y": 4.0}))
    model = convolution()
    to_float16(model)
    seen: list[str] = []
    inputs = (seen.append("opened") for _ in range(1))
    with pytest.raises(ModelError, match="weights in FP16"):
        quantize(model, inputs, QuantizeOptions())
    assert not seen, "it is refused before the images are opened"
