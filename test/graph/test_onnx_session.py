# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""make_session: what a session that cannot be made says."""

from __future__ import annotations

from typing import Any

import onnxruntime
import pytest
from support.yolox_graphs import build_yolox

from yolox_trt.core.errors import EngineError
from yolox_trt.core.faults import DeviceBrokenError, OutOfMemoryError
from yolox_trt.graph import onnx_session
from yolox_trt.graph.onnx_session import make_session


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", DeviceBrokenError),
        ("CUDA failure 2: out of memory ; GPU=0", OutOfMemoryError),
        ("no kernel for an operator", EngineError),
    ],
)
def test_a_session_that_cannot_be_made_gives_a_fault(
    monkeypatch: pytest.MonkeyPatch, text: str, kind: type[EngineError]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(EngineError, match="cannot load the model") as caught:
        make_session(build_yolox(num_classes=3))
    assert type(caught.value) is kind


@pytest.mark.parametrize("kept_by_malloc", [False, True])
def test_memory_is_pooled_once(monkeypatch: pytest.MonkeyPatch, kept_by_malloc: bool) -> None:
    """ONNX Runtime's pools are there where malloc gives every large block back, and only there."""
    monkeypatch.setattr(onnx_session, "heap_keeps_large_blocks", lambda: kept_by_malloc)
    options = make_session(build_yolox()).get_session_options()
    assert options.enable_cpu_mem_arena is not kept_by_malloc
    assert options.enable_mem_pattern is not kept_by_malloc
