# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The processes of one run, which `torchrun` starts: one for each GPU.

Each process (rank) holds all weights and its own part of the images, and makes its share of the
views of a batch. All of them take the mean of their gradients before a step, so their weights stay
alike. The first one alone reports, measures and writes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError, DeviceError, EngineError
from yolox_trt.core.option import options_of
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.training.options import Job, RunOptions
from yolox_trt.training.torch_device import torch_device

#: What torchrun tells each process: its number, how many there are, its number on this machine.
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
#: Longest wait for the others: for images that they read, kernels that they compile, exports.
_TIMEOUT = timedelta(minutes=15)

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """One process among those of its run.

    Attributes:
        rank: its number, from 0 on.
        count: of the processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is the one that reports, measures and writes."""
        return self.rank == 0

    def told(self, on_progress: Progress) -> Progress:
        """Return what is told how far this process is: nothing, but for the first one."""
        return on_progress if self.is_first else no_progress

    def batch(self, whole: int) -> int:
        """Return how many images of a batch this process makes.

        Raises:
            ConfigurationError: the processes cannot share the batch evenly.
        """
        share, rest = divmod(whole, self.count)
        if rest:
            declared, below = options_of(RunOptions)["batch"], share * self.count
            either = f"{below} or {below + self.count}" if below else str(self.count)
            raise ConfigurationError(
                (declared, f" = {whole} for {self.count} processes"),
                expected="as many images for each of them",
                fix=("set ", declared, f" to {either}"),
            )
        return share

    def part(self, images: Sequence[T]) -> list[T]:
        """Return the images of this process: every `count`-th.

        Raises:
            ConfigurationError: there is none for one of the processes.
        """
        if len(images) < self.count:
            raise ConfigurationError(
                f"{len(images)} images for {self.count} processes",
                expected="one for each of them at least",
                fix="start fewer processes (torchrun --nproc-per-node), or give more images",
            )
        return list(images[self.rank :: self.count])

    @torch.no_grad()
    def average(self, tensors: Iterable[Tensor | None]) -> None:
        """Replace tensors by their means over all processes; each passes the same ones."""
        if self.count == 1:
            return
        given = [tensor for tensor in tensors if tensor is not None]
        # One message for all: there are hundreds of small ones.
        flat = torch.cat([tensor.reshape(-1) for tensor in given])
        with self._exchange():
            distributed.all_reduce(flat)
        flat /= self.count
        parts = flat.split([tensor.numel() for tensor in given])
        torch._foreach_copy_(given, [p.view(t.shape) for p, t in zip(parts, given, strict=True)])

    def normaliser(self, total: Tensor) -> Tensor:
        """Return what this process divides a loss's sum by.

        With it the mean of the processes' losses is the loss of the whole batch: the sum of all
        totals, but at least 1, over the number of processes.

        Args:
            total: of this process's images, without gradients.
        """
        if self.count > 1:
            total = total.clone()
            with self._exchange():
                distributed.all_reduce(total)
        return total.clamp(min=1) / self.count

    def agree(self, progress: float, *flags: bool) -> tuple[float, ...]:
        """Return the first process's progress, and for each flag whether anybody has raised it.

        Clocks and signals differ, but no process may make a step that another one does not make.

        Args:
            progress: 0 or more.
            flags: what this process sees.

        Raises:
            EngineError: another process has ended.
        """
        if self.count == 1:
            return progress, *flags
        # On the host, where the end of a process is noticed: a GPU would wait for it.
        values = torch.tensor([progress if self.is_first else 0.0, *flags], dtype=torch.float64)
        with self._exchange():
            distributed.all_reduce(values, distributed.ReduceOp.MAX)
        return tuple(values.tolist())

    def start_alike(self, modules: Iterable[nn.Module]) -> None:
        """Give all processes the weights and buffers of the first."""
        self.agree(0.0)
        tensors = [tensor for module in modules for tensor in module.state_dict().values()]
        with self._exchange():
            for tensor in tensors if self.count > 1 else ():
                distributed.broadcast(tensor, 0)

    def gather(self, value: T) -> list[T]:
        """Return every process's value, by rank, to the first; others get an empty list."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count if self.is_first else []
        with self._exchange():
            distributed.gather_object(value, found or None)
        return found

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """Tell of another process that has ended where messages to it fail."""
        try:
            yield
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise EngineError(
                f"no exchange with the other {self.count - 1} processes of the run ({reason:.160})",
                expected="all of them until its end",
                fix="see the message of the first that ended; go on from the last checkpoint.pt",
            ) from error


#: A run of one process.
ALONE = Ranks()


def rank_of_environment() -> tuple[int, int, int]:
    """Return torchrun's number of this process, of all, and of this one on its machine.

    Raises:
        ConfigurationError: the variables make no sense together.
    """
    given = [os.environ.get(name) for name in _VARIABLES]
    if given[1] in (None, "", "1"):
        return 0, 1, 0
    with ConfigurationError.instead_of(
        (ValueError, TypeError),
        ", ".join(f"{name} = {value}" for name, value in zip(_VARIABLES, given, strict=True)),
        expected="what torchrun sets",
        fix="start it by torchrun, or unset WORLD_SIZE",
    ):
        rank, count, local = (int(value or "") for value in given)
        if not 0 <= local <= rank < count:
            raise ValueError(f"process {rank} of {count}")
        return rank, count, local


@contextmanager
def joined(device: Device | None, batch: int) -> Iterator[tuple[torch.device, Ranks]]:
    """Join the other processes of the run while the block runs, and choose this one's device.

    Args:
        device: that the user named; each process takes the GPU of its own number on its machine.
        batch: images a step, of all processes together.

    Yields:
        The device, and this process among the others.

    Raises:
        ConfigurationError: the processes cannot share the batch, or one GPU was named for all.
        DeviceError: there is no GPU for this process.
    """
    rank, count, local = rank_of_environment()
    ranks = Ranks(rank, count)
    ranks.batch(batch)
    chosen = torch_device(device if count == 1 else _own(device, local))
    cuda = chosen.type == "cuda"
    if cuda:
        torch.cuda.set_device(chosen)
    if count == 1:
        yield chosen, ranks
        return
    log = logging.getLogger("yolox_trt")
    level = log.level
    if rank:
        log.setLevel(logging.ERROR)  # the first process tells what all of them meet
    # As PyTorch asks for where steps are recorded as CUDA graphs with the messages in them.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_TIMEOUT)
    try:
        yield chosen, ranks
        # After an error others may wait within a step: their connections end with this process.
        distributed.destroy_process_group()
    finally:
        log.setLevel(level)


def _own(device: Device | None, local: int) -> Device | None:
    """Return the device of the process of this number on its machine."""
    if device is not None and device.kind == "gpu" and device.index:
        declared = options_of(Job)["device"]
        raise ConfigurationError(
            (declared, f" = {device} for several processes"),
            expected="auto, gpu or cpu: each process takes the GPU of its own number",
            fix=("set ", declared, " to gpu, and choose GPUs by CUDA_VISIBLE_DEVICES"),
        )
    gpus = torch.cuda.device_count()
    if (device is None and not gpus) or (device is not None and device.kind == "cpu"):
        return Device("cpu")
    if local >= gpus:
        raise DeviceError(
            f"process {local + 1} on a machine where PyTorch {torch.__version__} finds {gpus} GPUs",
            expected="a GPU for each process",
            fix=f"torchrun --nproc-per-node {max(gpus, 1)}",
        )
    return Device("gpu", local)
