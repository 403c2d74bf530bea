# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The network takes the image's bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import TensorProto
from support.passes import apply
from support.yolox_graphs import build_yolox

from yolox_trt.compiler.surgery.head_cut import HeadCut
from yolox_trt.compiler.surgery.uint8_input import Uint8Input
from yolox_trt.core.errors import ModelError
from yolox_trt.core.model_spec import (
    METADATA_PREPROCESSING,
)
from yolox_trt.graph.predictions import predict, relative_difference, sample_images
from yolox_trt.graph.spec import read_spec

RNG = np.random.default_rng(5)
SWAP = ("Gather", ["x", "bgr"], ["s"], {"axis": 1})


class TestUint8:
    def test_bytes_give_the_same_predictions(self) -> None:
        model = apply(HeadCut(), build_yolox()).model
        result = apply(Uint8Input(), model).model
        assert result.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
        assert read_spec(result).input_dtype == "uint8"
        images = sample_images(2, 64, 96)
        assert relative_difference(predict(model, images), predict(result, images)) == 0.0

    def test_a_second_time_changes_nothing(self) -> None:
        once = apply(Uint8Input(), build_yolox()).model
        assert not apply(Uint8Input(), once).changes

    def test_normalisation_outside_is_refused(self) -> None:
        model = build_yolox()
        entry = model.metadata_props.add()
        entry.key = METADATA_PREPROCESSING
        entry.value = json.dumps({"scale": 1 / 255})
        with pytest.raises(ModelError, match="fold_preprocessing"):
            apply(Uint8Input(), model)
