# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Faults on a real Ray cluster of two nodes, each beside the same run without: a script.

    ray_cases.py FOLDER MODEL DRIVES [CASE...] > cases.json

Ray hands the path of its driver's modules to its workers, where the tests' folder `packaging` would
go before the library of that name: so it is a process of its own.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Ray's workers make way for everything else on the machine: beside other tests they would starve.
os.environ.setdefault("RAY_worker_niceness", "0")
from ray.cluster_utils import Cluster

from yolox_trt.batch import manifest as manifests
from yolox_trt.batch import ray_cluster
from yolox_trt.batch.detection import DetectJob, Finder
from yolox_trt.batch.manifest import read_manifest
from yolox_trt.batch.options import RunOptions, SourceOptions
from yolox_trt.batch.plan import Part, plan_parts
from yolox_trt.batch.ray_cluster import connected
from yolox_trt.batch.run import Summary, run
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.postprocess_options import ThresholdOptions
from yolox_trt.detectors.options import DetectorOptions

ONCE = RunOptions(retries=0)


@dataclass(frozen=True)
class DyingJob(DetectJob):
    """Its worker is killed, as by the kernel for want of memory, at one part.

    Attributes:
        victim: the part's id.
        marks: a file for each death.
        deaths: how often it dies there.
    """

    victim: str = ""
    marks: str = ""
    deaths: int = 1

    @contextlib.contextmanager
    def open(self) -> Iterator[Finder]:
        with super().open() as finder:
            work = finder.work

            def dying(part: Part) -> Any:
                marks = Path(self.marks)
                if part.id == self.victim and len(list(marks.iterdir())) < self.deaths:
                    (marks / str(time.monotonic_ns())).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                return work(part)

            finder.work = dying
            yield finder


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "parts").iterdir()}


def main(folder: Path, model: Path, drives: Path, names: Sequence[str] = ()) -> dict[str, Any]:
    sources = [str(drives), str(drives / "pictures")]
    parts = plan_parts(sources, SourceOptions(part_frames=2))
    detector = DetectorOptions(model=model, device=Device("cpu"), threads=1)
    job = DetectJob(detector, ThresholdOptions(score_threshold=0.05))
    whole = run(job, parts, folder / "whole", ONCE)
    good = [part for part in parts if part.id not in whole.failures]
    expected = files(folder / "whole")
    results: dict[str, Any] = {"parts": len(parts), "frames": whole.frames}

    node = {"num_cpus": 1, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    try:
        with connected(RunOptions(ray=cluster.address, workers=2)) as workers:

            def case(name: str, work: Callable[[Path], Summary]) -> None:
                if names and name not in names:
                    return
                begin = time.monotonic()
                try:
                    summary = work(folder / name)
                    states = read_manifest(folder / name, ".parquet")[1]
                    results[name] = {
                        "same": files(folder / name) == expected,
                        "missing": sorted(expected.keys() - files(folder / name).keys()),
                        "failed": summary.failures,
                        "frames": sum(each["frames"] for each in states),
                        "seconds": round(time.monotonic() - begin, 1),
                    }
                except Exception:
                    results[name] = {"raised": traceback.format_exc()}
                print(name, json.dumps(results[name]), file=sys.stderr, flush=True)

            ray_cluster.__version__, version = "0.0", ray_cluster.__version__
            try:
                with connected(RunOptions(ray=cluster.address, workers=2)):
                    results["other_version"] = "taken"
            except ConfigurationError as error:
                results["other_version"] = str(error)
            ray_cluster.__version__ = version
            case("workers", lambda out: run(job, parts, out, ONCE, runner=workers))
            apart = replace(workers, workers=1, decoders=1)
            case("decoders", lambda out: run(job, parts, out, ONCE, runner=apart))

            def dying(deaths: int, name: str) -> DyingJob:
                marks = folder / f"marks_{name}"
                marks.mkdir()
                return DyingJob(
                    job.detector, job.thresholds, victim=good[1].id, marks=str(marks), deaths=deaths
                )

            one = dying(1, "once")
            case("worker_dies", lambda out: run(one, parts, out, ONCE, runner=workers))
            always = dying(99, "always")
            case("worker_dies_always", lambda out: run(always, parts, out, ONCE, runner=workers))
            results["deaths"] = len(list(Path(always.marks).iterdir()))

            def interrupted(out: Path) -> Summary:
                def interrupt(what: str, done: float, total: float | None, note: str = "") -> None:
                    if done == 2:
                        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

                with contextlib.suppress(KeyboardInterrupt):
                    run(job, parts, out, ONCE, runner=workers, on_progress=interrupt)
                    time.sleep(1.0)  # all parts were done before
                results["interrupted_left"] = len(parts) - len(files(out))
                return run(job, parts, out, ONCE, runner=workers)

            case("interrupted", interrupted)

            def full(out: Path) -> Summary:
                write, room = manifests.write_whole, [4]

                def no_space(place: Any, data: bytes) -> None:
                    room[0] -= 1
                    if room[0] < 0:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
                    write(place, data)

                manifests.write_whole = no_space
                try:
                    run(job, parts, out, ONCE, runner=workers)
                except OSError as error:
                    results["full_disk_error"] = str(error)
                finally:
                    manifests.write_whole = write
                return run(job, parts, out, ONCE, runner=workers)

            case("full_disk", full)

            def node_killed(out: Path) -> Summary:
                def kill(what: str, done: float, total: float | None, note: str = "") -> None:
                    if done == 1:
                        cluster.remove_node(second, allow_graceful=False)

                one_each = replace(workers, workers=2)
                return run(job, parts, out, ONCE, runner=one_each, on_progress=kill)

            case("node_killed", node_killed)
    finally:
        cluster.shutdown()
    return results


if __name__ == "__main__":
    found = main(*map(Path, sys.argv[1:4]), names=sys.argv[4:])
    print(json.dumps(found))
