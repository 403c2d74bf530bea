# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's name of a Device."""

from __future__ import annotations

import torch

from yolox_trt.core.device import Device
from yolox_trt.core.errors import DeviceError


def torch_device(device: Device | None) -> torch.device:
    """Return PyTorch's device for one of ours.

    Args:
        device: a GPU or the CPU; None for the first GPU where there is one, else the CPU.

    Raises:
        DeviceError: PyTorch finds no such GPU.
    """
    count = torch.cuda.device_count()
    if device is None:
        device = Device("gpu") if count else Device("cpu")
    if device.kind == "cpu":
        return torch.device("cpu")
    if device.index >= count:
        raise DeviceError(
            f"no device '{device}': PyTorch {torch.__version__} finds {count} GPUs",
            expected="a GPU, its driver, and a PyTorch with CUDA",
            fix="train on the device `cpu`, or see `nvidia-smi`",
        )
    return torch.device("cuda", device.index)
