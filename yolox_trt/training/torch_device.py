# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's name of a Device, and whether what a training needs fits into its memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from yolox_trt.core.device import Device
from yolox_trt.core.errors import DeviceError, Message
from yolox_trt.core.faults import OutOfMemoryError, library_fault
from yolox_trt.core.option import options_of
from yolox_trt.graph.onnx_session import require_memory
from yolox_trt.training.options import RunOptions

#: Bytes of a pixel of a view during a step, at the least: itself, and the first layer's outputs.
_STEP_BYTES = 32
_OF_RUN = options_of(RunOptions)
_FIX_STEP = ("set a smaller ", _OF_RUN["batch"], " or ", _OF_RUN["size"])


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


def check_room(device: torch.device, needed: float, what: str, fix: Message) -> None:
    """Refuse what cannot fit into a device's memory, before any is taken.

    Args:
        device: the device.
        needed: bytes.
        what: what needs them.
        fix: what mends it.

    Raises:
        OutOfMemoryError: there are fewer.
    """
    if device.type == "cpu":
        require_memory(needed, what, fix=fix)
    elif needed > (whole := torch.cuda.get_device_properties(device).total_memory):
        raise OutOfMemoryError(
            f"{what}, which needs about {needed / 1e9:.1f} GB",
            expected=f"at most {whole / 1e9:.1f} GB, the memory of {device}",
            fix=fix,
        )


def check_step(device: torch.device, options: RunOptions, batch: int) -> None:
    """Refuse steps of a training that cannot fit into a device's memory.

    Args:
        device: the device.
        options: of the training.
        batch: images of a step on this device.

    Raises:
        OutOfMemoryError: they do not.
    """
    needed = batch * options.side**2 * _STEP_BYTES
    check_room(device, needed, _step(options, batch), _FIX_STEP)


@contextlib.contextmanager
def steps_of(options: RunOptions, batch: int) -> Iterator[None]:
    """Name what PyTorch has no memory for, in the block, by the options; see check_step."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(library_fault(error, "a step failed"), OutOfMemoryError):
            raise OutOfMemoryError(
                f"no memory for {_step(options, batch)}", expected="free memory", fix=_FIX_STEP
            ) from error
        raise


def _step(options: RunOptions, batch: int) -> str:
    return f"a step of {batch} images of {options.side}x{options.side} pixels"
