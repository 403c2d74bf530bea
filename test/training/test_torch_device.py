# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Devices have one name in the package, and PyTorch's inside it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.core.device import Device
from yolox_trt.core.errors import DeviceError
from yolox_trt.training.torch_device import torch_device


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert torch_device(None) == torch.device("cuda", 0)
    assert torch_device(Device("gpu", 1)) == torch.device("cuda", 1)
    assert torch_device(Device("cpu")) == torch.device("cpu")
    with pytest.raises(DeviceError, match=r"'gpu:2'.*finds 2 GPUs"):
        torch_device(Device("gpu", 2))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert torch_device(None) == torch.device("cpu")
