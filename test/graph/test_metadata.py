# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Metadata read without the graph equals what onnx reads."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from google.protobuf.message import DecodeError
from support.yolox_graphs import build_yolox

from yolox_trt.graph.metadata import read_metadata


@pytest.mark.parametrize("metadata", [False, True])
def test_it_equals_what_onnx_reads(tmp_path: Path, metadata: bool) -> None:
    model = build_yolox(num_classes=2, metadata=metadata)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    assert read_metadata(path) == {each.key: each.value for each in model.metadata_props}
    assert bool(read_metadata(path)) is metadata


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(DecodeError):
        read_metadata(path)
