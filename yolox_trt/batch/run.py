# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A run: all parts that are not done yet, tried again where they fail, written one by one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from yolox_trt.batch.job import Job, Outcome, in_this_process
from yolox_trt.batch.manifest import FAILED, Manifest
from yolox_trt.batch.options import RunOptions
from yolox_trt.batch.places import Place
from yolox_trt.batch.plan import Part
from yolox_trt.core.progress import Progress, no_progress

#: Works on parts; yields an outcome of each, in any order.
Runner = Callable[[Job, list[Part]], Generator[Outcome, None, None]]


@dataclass(frozen=True)
class Summary:
    """What a run has done.

    Attributes:
        parts: all of the sources.
        before: those that earlier runs had done.
        frames: worked on by this run.
        refused: images that could not be read, by this run and those before.
        failures: part's id and why it failed, of those that are not done.
        seconds: of this run.
        worker_seconds: of all workers together.
        manifest: of the output folder.
    """

    parts: int
    before: int
    frames: int
    refused: int
    failures: dict[str, str]
    seconds: float
    worker_seconds: float
    manifest: Manifest

    @property
    def status(self) -> int:
        """Exit status: 1 where a part or an image is missing from the results."""
        return 1 if self.failures or self.refused else 0


def run(
    job: Job,
    parts: Sequence[Part],
    folder: Place,
    options: RunOptions,
    *,
    runner: Runner = in_this_process,
    workers: int = 1,
    on_progress: Progress = no_progress,
) -> Summary:
    """Do a job on parts, and leave a file of each and a manifest in a folder.

    What ends it in between, Ctrl-C or a full disk, leaves whole files and a manifest; the same call
    goes on from there.

    Args:
        job: what is done.
        parts: on what.
        folder: of the output.
        options: how often a part is tried again.
        runner: where the work is done.
        workers: of the runner, for the cost.
        on_progress: told of every part that is done.

    Raises:
        ConfigurationError: see Manifest.
        OSError: the output cannot be written.
    """
    manifest = Manifest(folder, job)
    todo = manifest.add(parts)
    before, frames, worker_seconds, begin = len(parts) - len(todo), 0, 0.0, time.monotonic()
    done, turns = before, 0
    try:
        while todo:
            waiting, again = {part.id for part in todo}, []
            turns += 1
            with contextlib.closing(runner(job, todo)) as outcomes:
                for outcome in outcomes:
                    if outcome.part.id not in waiting:  # a second time, after a machine has gone
                        continue
                    waiting.remove(outcome.part.id)
                    manifest.take(outcome)
                    worker_seconds += outcome.seconds
                    if outcome.data is None:
                        # A machine that goes is no fault of its parts: they get another turn.
                        if turns <= max(options.retries, outcome.lost):
                            again.append(outcome.part)
                        continue
                    done, frames = done + 1, frames + outcome.frames
                    seconds = time.monotonic() - begin
                    rest = seconds / (done - before) * (len(parts) - done)
                    note = f"{frames / seconds:.1f} frames/s, {rest:.0f} s left"
                    if frames:
                        note += f", {cost_text(frames, seconds, workers, options)}"
                    on_progress("parts", done, len(parts), note)
            todo = [part for part in todo if part in again]
    finally:
        # A full disk must not hide the error that it has brought up.
        with contextlib.suppress(OSError):
            manifest.save()
    records = [manifest.records[part.id] for part in parts]
    return Summary(
        parts=len(parts),
        before=before,
        frames=frames,
        refused=sum(record["refused"] for record in records),
        failures={each["part"]: each["error"] for each in records if each["state"] == FAILED},
        seconds=time.monotonic() - begin,
        worker_seconds=worker_seconds,
        manifest=manifest,
    )


def cost_text(frames: int, seconds: float, workers: int, options: RunOptions) -> str:
    """Return what 1,000 frames cost: time of workers, and money where a price is known."""
    hours = seconds * workers / 3600.0 / frames * 1000.0
    money = "" if options.price is None else f" = {hours * options.price:.3g}"
    return f"1,000 frames: {hours * 3600.0:.3g} worker-seconds{money}"
