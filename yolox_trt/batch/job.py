# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Job: what is done with each part, and what comes out of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import traceback
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolox_trt.batch.plan import Part
from yolox_trt.core.device import Device
from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.core.limits import LIMITS, clean_text

#: What mends a worker that is out of memory.
LESS_MEMORY = "fix: fewer --workers on a machine, or smaller parts by --part-frames"


@dataclass(frozen=True)
class Outcome:
    """What came of a part.

    Attributes:
        part: the part.
        data: content of its file; None where it failed.
        frames: images that were worked on.
        refused: images that could not be read.
        error: why it failed, "" where it did not.
        lost: whether its worker, or its machine, was gone before it could tell.
        seconds: how long a worker was at it.
    """

    part: Part
    data: bytes | None = None
    frames: int = 0
    refused: int = 0
    error: str = ""
    lost: bool = False
    seconds: float = 0.0


class Worker(ABC):
    """Works on parts, one after the other, with what takes long to load."""

    @abstractmethod
    def work(self, part: Part) -> Outcome:
        """Return the outcome of a part; what it raises makes the part fail."""


class Job(ABC):
    """A kind of work on parts. It travels to other machines: it must be picklable.

    Attributes:
        suffix: of the file of each part.
    """

    suffix: str

    @abstractmethod
    def description(self) -> Mapping[str, Any]:
        """Return what the results depend on, beside the parts: the model's hash, the options."""

    @abstractmethod
    def open(self) -> contextlib.AbstractContextManager[Worker]:
        """Open a worker, here and now."""

    def files(self) -> Mapping[str, Path]:
        """Return the files that a worker on another machine needs, by paths in one folder."""
        return {}

    def with_files(self, folder: Path) -> Job:
        """Return the job with its files in that folder."""
        return self

    @property
    def device(self) -> Device | None:
        """Where a worker runs its network; None: on a GPU where there is one."""
        return Device("cpu")

    @property
    def key(self) -> str:
        """Hash of the description."""
        text = json.dumps(self.description(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def failed(part: Part, error: BaseException) -> Outcome:
    """Return the outcome of a part that has raised, in one line."""
    text = str(error) if isinstance(error, YoloxTrtError) else _described(error)
    if isinstance(error, MemoryError) and not isinstance(error, YoloxTrtError):
        text = f"no memory ({text}); {LESS_MEMORY}"
    return Outcome(part, error=clean_text(" ".join(text.split()), LIMITS.text_characters))


def _described(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" in {Path(frame.filename).name}:{frame.lineno}" for frame in last)
    return f"{type(error).__name__}: {error}{where}"


def work_on(worker: Worker, part: Part) -> Outcome:
    """Return the outcome of a part; one that raises has failed, and holds nothing else up."""
    try:
        return worker.work(part)
    except Exception as error:  # a damaged file may bring up anything
        return failed(part, error)


def in_this_process(job: Job, parts: Sequence[Part]) -> Generator[Outcome, None, None]:
    """Work on parts here, one after the other."""
    with job.open() as worker:
        for part in parts:
            yield work_on(worker, part)
