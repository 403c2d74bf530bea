# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A run of a trainer: its steps, its checkpoints and log, and signals that end it early."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from yolox_trt.core.errors import FILE_ERRORS, ModelError
from yolox_trt.core.option import options_of
from yolox_trt.core.output_paths import json_text, write_json
from yolox_trt.core.progress import Progress
from yolox_trt.training.checkpoint import load_file, save_file
from yolox_trt.training.options import Job, RunOptions
from yolox_trt.training.ranks import ALONE, Ranks
from yolox_trt.training.torch_device import steps_of

#: Losses of a run about once a second, and what was measured of it, in the order of their time.
Log = list[dict[str, Any]]

_log = logging.getLogger("yolox_trt.training")
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Trainer(ABC):
    """What a run trains.

    Attributes:
        options: of the run.
        device: where it trains.
        state: whatever a step changes, by name: it has `state_dict` and `load_state_dict`.
        ranks: this process among those of the run.
        batch: images that this process makes of a step's.
    """

    options: RunOptions
    device: torch.device
    state: Mapping[str, Any]
    ranks: Ranks = ALONE
    batch: int

    @abstractmethod
    def train_step(self, progress: float) -> Mapping[str, Tensor]:
        """Make one optimiser step.

        Args:
            progress: of the whole run, 0 to 1.

        Returns:
            The loss and its parts, scalars on the device; those of the whole batch.
        """

    def _average(
        self, parameters: Iterable[nn.Parameter], normed: nn.Module | None, losses: Tensor
    ) -> None:
        """Give all processes the means of their gradients, batch-norm statistics and losses."""
        floats = [] if normed is None else [b for b in normed.buffers() if b.is_floating_point()]
        self.ranks.average([*(p.grad for p in parameters), *floats, losses])


class HeldSignals:
    """Holds Ctrl-C, SIGTERM and SIGHUP back while the block runs, which looks at `received`.

    One that came is delivered when the block is left. A second Ctrl-C is not held back.

    Attributes:
        received: number of the first one, 0 before.
    """

    def __enter__(self) -> HeldSignals:
        self.received = 0
        self._former: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in _ENDS:
                if callable(signal.getsignal(number)):  # the default ends the process, as it should
                    self._former[number] = signal.signal(number, self._hold)
        return self

    def _hold(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for each in self._former:
            # A terminal that closes sends several.
            signal.signal(each, self._former[each] if each == signal.SIGINT else signal.SIG_IGN)
        name = signal.Signals(number).name
        _log.warning("%s: what was trained is written; Ctrl-C once more ends at once", name)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        if self.received and error is None:
            self._former[self.received](self.received, None)


def read_training(path: Path | None, *, weights_too: bool = False) -> dict[str, Any]:
    """Read the checkpoint.pt of a run.

    Args:
        path: the file; None for a run from the start.
        weights_too: whether a file of weights alone is taken.

    Returns:
        What it holds; {} without a path, and for weights alone.

    Raises:
        ModelError: no such file, or a file of another kind.
    """
    saved = {} if path is None else load_file(path)
    if path is not None and not weights_too and "training" not in saved:
        raise ModelError(
            f"'{path}' without the state of a run",
            expected="a checkpoint.pt that the same command wrote",
            fix=("correct ", options_of(Job)["resume"]),
        )
    if "training" not in saved:
        return {}
    with ModelError.instead_of(
        (*FILE_ERRORS, RuntimeError),
        f"'{path}' with a state of a run that is damaged",
        expected="a checkpoint.pt that the same command wrote",
        fix=("correct ", options_of(Job)["resume"]),
    ):
        return {**saved, **_progress_of(saved)}


def _progress_of(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return step, seconds, log and states of random numbers, where they are that.

    Raises:
        FILE_ERRORS, RuntimeError: one of them is something else.
    """
    step, seconds, log = saved["step"], saved["seconds"], saved["log"]
    if not isinstance(step, int) or not 0 <= step < 2**53:
        raise ValueError(f"step {step!r:.40}")
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise ValueError(f"seconds {seconds!r:.40}")
    if not isinstance(log, list) or not all(isinstance(each, dict) for each in log):
        raise TypeError(f"a log {log!r:.40}")
    json_text(log)
    random = saved.get("random", [])
    states = [random] if isinstance(random, dict) else random  # of one process, in older versions
    if not isinstance(states, list):
        raise TypeError(f"random {random!r:.40}")
    for state in states:
        torch.Generator().set_state(state["cpu"])
    return {"step": step, "seconds": float(seconds), "log": log, "random": states}


def run_training(
    trainer: Trainer,
    job: Job,
    export: Callable[[Log], None],
    *,
    resumed: Mapping[str, Any],
    title: str,
    on_progress: Progress,
) -> Log:
    """Train to the end or a signal, and write what was trained.

    Leaves `checkpoint.pt`, from which the run can go on, and `log.json` in the job's folder. The
    model is exported with each checkpoint: a run that is killed leaves one that can be used, too.

    Args:
        trainer: what is trained.
        job: where the run is written, and how often.
        export: writes what has been trained so far, and may add to the log.
        resumed: what read_training() read.
        title: of the progress.
        on_progress: told of every step.

    Raises:
        ModelError: the checkpoint is of another network.
        OutOfMemoryError: a step does not fit into memory.
    """
    o, ranks = trainer.options, trainer.ranks
    step, before, log = 0, 0.0, Log()
    if resumed:
        step, before, log = resumed["step"], resumed["seconds"], resumed["log"]
        _restore(trainer, resumed, job.resume)
    ranks.start_alike(part for part in trainer.state.values() if isinstance(part, nn.Module))
    _set_random_state(trainer, resumed)
    start = saved = shown = time.monotonic()
    since, note, is_first_step = 0, "", True
    sums: dict[str, Tensor] = {}

    def save() -> None:
        states = ranks.gather(_random_state(trainer.device))
        if not ranks.is_first:
            return
        state = {name: part.state_dict() for name, part in trainer.state.items()}
        elapsed = before + time.monotonic() - start
        whole = {"training": state, "random": states, "options": asdict(o)}
        save_file(
            job.output / "checkpoint.pt", {**whole, "step": step, "seconds": elapsed, "log": log}
        )
        write_json(job.output / "log.json", log)

    def progress() -> float:
        return step / o.steps if o.steps else (before + time.monotonic() - start) / o.seconds

    with HeldSignals() as signals:
        agreed, ended, due = ranks.agree(progress(), False, False)
        while agreed < 1 and not ended:
            with steps_of(o, trainer.batch):
                parts = trainer.train_step(agreed)
            if is_first_step:
                # It compiles and records the others: minutes in which nothing is learned, and the
                # learning rate must not pass its warm-up.
                start = saved = shown = time.monotonic()
                is_first_step = False
            step, since = step + 1, since + 1
            sums = {name: value.detach() + sums.get(name, 0) for name, value in parts.items()}
            now, here = time.monotonic(), progress()
            # One look a second keeps the queue of the GPU filled in between.
            if ranks.is_first and (now - shown > 1.0 or here >= 1):
                means = {name: float(total) / since for name, total in sums.items()}
                rate = o.batch * since / (now - shown)
                log.append(
                    {
                        "step": step,
                        "progress": min(1.0, here),
                        "seconds": before + now - start,
                        "images_per_second": rate,
                        **means,
                    }
                )
                note = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
                note = f"{rate:.0f} images/s, {note}"
                since, sums, shown = 0, {}, now
            done, total = (step, o.steps) if o.steps else (here * o.seconds, o.seconds)
            on_progress(title, min(done, total), total, note)
            due = now - saved > job.save_every and ranks.is_first
            agreed, ended, due = ranks.agree(here, bool(signals.received), bool(due))
            if due and agreed < 1 and not ended:
                if ranks.is_first:
                    # Exporting changes no random numbers, and touches no other process's GPU.
                    gpus = [trainer.device] if trainer.device.type == "cuda" else []
                    with torch.random.fork_rng(gpus):
                        export(log)
                save()
                saved = time.monotonic()
        save()
        if ranks.is_first:
            export(log)
            write_json(job.output / "log.json", log)
        ranks.agree(1.0)  # the others end when all is written, or with its failure
    return log


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(trainer: Trainer, resumed: Mapping[str, Any]) -> None:
    """Go on with the random numbers of a checkpoint; else give each process its own."""
    ranks, states = trainer.ranks, resumed.get("random", [])
    if resumed and len(states) != ranks.count:
        _log.warning(
            "the run was %d processes and is %d now: it goes on with the same weights, batch and "
            "schedule, but other random views, and batch norm takes its statistics of %d images",
            *(len(states), ranks.count, trainer.batch),
        )
    if ranks.rank < len(states):
        state = states[ranks.rank]
        torch.set_rng_state(state["cpu"])
        if trainer.device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], trainer.device)
    elif ranks.rank:
        torch.manual_seed(trainer.options.seed + 1009 * ranks.rank + resumed.get("step", 0))


def _restore(trainer: Trainer, saved: Mapping[str, Any], path: Path | None) -> None:
    rates = {
        name: [group["lr"] for group in part.param_groups]
        for name, part in trainer.state.items()
        if isinstance(part, torch.optim.Optimizer)
    }
    try:
        for name, part in trainer.state.items():
            part.load_state_dict(saved["training"][name])
        for name, values in rates.items():
            # A captured step reads the tensors that it was captured with.
            for group, rate in zip(trainer.state[name].param_groups, values, strict=True):
                group["lr"] = rate
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        # PyTorch lists every tensor that does not fit.
        reason = " ".join(str(error).split())[:150]
        raise ModelError(
            f"'{path}', the checkpoint of another run ({reason} ...)",
            expected="a run of the same network, with the same options of its form",
            fix=("give another ", options_of(Job)["resume"], ", or the options of that run"),
        ) from error
