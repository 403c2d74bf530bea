# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of engines."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.engine_files import EXAMPLE
from support.yolox_graphs import build_yolox

from yolox_trt.core.errors import EngineError, ModelError
from yolox_trt.core.files import sha256_of
from yolox_trt.engines.fingerprint import (
    Fingerprint,
    external_files,
    file_sha256,
    model_sha256,
)
from yolox_trt.graph.metadata import read_metadata

CHANGES = {
    "onnx_sha256": "ac" * 32,
    "precision": "fp16",
    "calibration_sha256": None,
    "device": "dla1",
    "batch": (1, 1, 2),
    "height": 640,
    "width": 640,
    "tensorrt_version": "8.5.2.3",
    "flavour": "tensorrt_rtx",
    "compute_capability": "7.2",
    "options": {"sparsity": True, "layer_precisions": {"a": "fp16"}},
}


def test_every_attribute_counts() -> None:
    assert set(CHANGES) == {field.name for field in dataclasses.fields(Fingerprint)}
    keys = {EXAMPLE.key}
    for name, value in CHANGES.items():
        changed = dataclasses.replace(EXAMPLE, **{name: value})
        keys.add(changed.key)
        (difference,) = EXAMPLE.differences(changed)
        assert difference.startswith(name)
    assert len(keys) == len(CHANGES) + 1


def test_round_trip() -> None:
    again = Fingerprint.from_dict(EXAMPLE.to_dict())
    assert again == EXAMPLE
    assert again.key == EXAMPLE.key
    assert EXAMPLE.differences(again) == []


def test_order_of_options_does_not_count() -> None:
    turned = dict(reversed(list(EXAMPLE.options.items())))
    assert dataclasses.replace(EXAMPLE, options=turned).key == EXAMPLE.key


@pytest.mark.parametrize(
    "broken",
    [
        *({}, {"batch": 3}, {**EXAMPLE.to_dict(), "speed": 1}),
        *({**EXAMPLE.to_dict(), "options": wrong} for wrong in ([], "dla_standalone", None)),
        *({**EXAMPLE.to_dict(), "height": wrong} for wrong in ("608", None, -1)),
        {**EXAMPLE.to_dict(), "device": 0},
    ],
)
def test_what_cannot_be_read(broken: dict[str, object]) -> None:
    with pytest.raises(EngineError, match="fingerprint"):
        Fingerprint.from_dict(broken)


def test_file_sha256(tmp_path: Path) -> None:
    path = tmp_path / "x"
    data = bytes(range(256)) * 10000
    path.write_bytes(data)
    assert file_sha256(path) == hashlib.sha256(data).hexdigest()
    with pytest.raises(EngineError, match="cannot be read"):
        file_sha256(tmp_path / "absent")


def digest(path: Path) -> str:
    return model_sha256(path, external_files(path))


def test_weights_outside_the_model_count(tmp_path: Path) -> None:
    model = build_yolox()
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="m.bin", size_threshold=0)
    before = digest(path)
    assert digest(path) == before
    data = bytearray((tmp_path / "m.bin").read_bytes())
    data[100] ^= 1
    (tmp_path / "m.bin").write_bytes(data)
    assert digest(path) != before
    (tmp_path / "m.bin").unlink()
    with pytest.raises(ModelError, match=r"m\.bin"):
        digest(path)


def test_weights_outside_of_a_constant_node_count(tmp_path: Path) -> None:
    weights = np.ones((4, 3, 3, 3), np.float32)
    node = onnx.helper.make_node("Constant", [], ["w"], value=onnx.numpy_helper.from_array(weights))
    identity = onnx.helper.make_node("Identity", ["w"], ["y"])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4, 3, 3, 3])
    inner = onnx.helper.make_graph([node, identity], "inner", [], [output])
    branches = onnx.helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    condition = onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])
    result = onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [4, 3, 3, 3])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([branches], "outer", [condition], [result])
    )
    path = tmp_path / "m.onnx"
    onnx.external_data_helper.convert_model_to_external_data(
        model, location="m.bin", size_threshold=0, convert_attribute=True
    )
    onnx.save(model, str(path))
    before = digest(path)
    (tmp_path / "m.bin").write_bytes(bytes((tmp_path / "m.bin").stat().st_size))
    assert digest(path) != before


def test_weights_outside_of_the_models_folder_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for location in ("../m.bin", f"{tmp_path}/m.bin"):
        model = build_yolox(depth=0, width=0.125)
        for tensor in model.graph.initializer:
            onnx.external_data_helper.set_external_data(tensor, location)
            tensor.ClearField("raw_data")
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match=r"leads out of the folder"):
            external_files(path)


def test_what_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(100))
    with pytest.raises(ModelError, match="not an ONNX model"):
        digest(path)


def test_a_pipe_is_no_model(tmp_path: Path) -> None:
    """Whoever opened one would wait for its writer."""
    os.mkfifo(pipe := tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="no plain file"):
        external_files(pipe)
    for read in (sha256_of, read_metadata):
        with pytest.raises(OSError, match="no plain file"):
            read(pipe)
