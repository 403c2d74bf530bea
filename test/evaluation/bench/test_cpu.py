# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`bench cpu` times the same work on both sides."""

from __future__ import annotations

import pytest

from yolox_trt.evaluation.bench import cpu
from yolox_trt.evaluation.options import CpuOptions


def test_to_join_raw_levels_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped model has raw levels, those of the demo have one tensor."""
    pytest.importorskip("skimage")
    pytest.importorskip("onnxruntime")
    joined = []
    predict = cpu.predict
    monkeypatch.setattr(cpu, "predict", lambda *a, **k: joined.append(1) or predict(*a, **k))

    def once(calls: list, seconds: float, *, before: object) -> list[float]:
        for call in calls:
            before()
            call()
        return [1.0, 2.0]

    monkeypatch.setattr(cpu, "alternating_times", once)
    report = cpu.measure(CpuOptions(size=(64, 96), threads=1))
    assert len(joined) == 1
    assert report.document["whole path"] == {"demo": 1000.0, "ours": 2000.0, "ratio": 0.5}
