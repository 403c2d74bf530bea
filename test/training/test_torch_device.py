# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Devices have one name in the package, and PyTorch's inside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.core.device import Device
from yolox_trt.core.errors import DeviceError
from yolox_trt.core.faults import OutOfMemoryError
from yolox_trt.training.export import export_onnx
from yolox_trt.training.image_store import ImageStore
from yolox_trt.training.model_config import CONFIGS
from yolox_trt.training.options import ExportOptions, RunOptions, TrainJob, TrainOptions
from yolox_trt.training.torch_device import steps_of, torch_device
from yolox_trt.training.train import train
from yolox_trt.training.yolox import YOLOX


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert torch_device(None) == torch.device("cuda", 0)
    assert torch_device(Device("gpu", 1)) == torch.device("cuda", 1)
    assert torch_device(Device("cpu")) == torch.device("cpu")
    with pytest.raises(DeviceError, match=r"'gpu:2'.*finds 2 GPUs"):
        torch_device(Device("gpu", 2))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert torch_device(None) == torch.device("cpu")


def test_what_no_memory_can_hold_is_refused_before_it_is_taken(tmp_path: Path) -> None:
    job = TrainJob(
        annotations=tmp_path / "a.json", images=tmp_path, output=tmp_path / "run",
        device=Device("cpu"), options=TrainOptions(size=(8192, 8192), batch=65536),
    )  # fmt: skip
    step = "a step of 65536 images of 8192x8192 pixels.*set a smaller `batch` or `size`"
    with pytest.raises(OutOfMemoryError, match=step):
        train(job)
    with pytest.raises(OutOfMemoryError, match=r"1000000 images of 8192x8192.*use fewer images"):
        ImageStore.load([tmp_path / "a.png"] * 1_000_000, side=8192)
    model = YOLOX(replace(CONFIGS["yolox_nano"], norm=False))
    with pytest.raises(OutOfMemoryError, match=r"a run of 1024 images.*set a smaller `batch`"):
        export_onnx(model, tmp_path / "m.onnx", ExportOptions(size=(8192, 8192), batch=1024))


def test_what_pytorch_has_no_memory_for_is_named_by_the_options() -> None:
    """Other errors are defects, and keep their tracebacks."""
    options = RunOptions(size=(64, 64))
    full = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    for error in (RuntimeError(full), torch.OutOfMemoryError("CUDA out of memory. Tried to")):
        message = "no memory for a step of 8 images of 64x64 pixels"
        with pytest.raises(OutOfMemoryError, match=message), steps_of(options, 8):
            raise error
    with pytest.raises(RuntimeError, match="shapes"), steps_of(options, 8):
        raise RuntimeError("shapes do not fit")


def test_a_gpu_is_asked_for_the_memory_that_it_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    properties = SimpleNamespace(total_memory=10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    with pytest.raises(OutOfMemoryError, match=r"at most 1\.0 GB, the memory of cuda:0"):
        ImageStore.load([tmp_path / "a.png"] * 1000, side=8192, device="cuda:0")
