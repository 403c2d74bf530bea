# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Faults on a real Ray cluster of two nodes, each beside the same run without: a script.

    ray_cases.py FOLDER MODEL DRIVES [CASE...] > cases.json

Ray's driver takes signals, environment and threads of its process: so it is one of its own.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
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
import cv2
import numpy as np
import psutil
import ray
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

CPU = Device("cpu")
ONCE = RunOptions(retries=0)
#: Bytes of the picture that TightJob's worker has no memory for; a thread's stack is an eighth.
BIG = 64 << 20
PIECE = 64 << 20
#: Bytes that GreedyJob's worker may take before Ray's memory monitor finds too few of them left.
ROOM = 2 << 30


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


@dataclass(frozen=True)
class TightJob(DyingJob):
    """Its worker may take no more memory while it works on one part, as with `ulimit -v`."""

    @contextlib.contextmanager
    def open(self) -> Iterator[Finder]:
        with DetectJob.open(self) as finder:
            work = finder.work

            def tight(part: Part) -> Any:
                marks = Path(self.marks)
                if part.id != self.victim or len(list(marks.iterdir())) >= self.deaths:
                    return work(part)
                (marks / str(time.monotonic_ns())).touch()
                held = psutil.Process().memory_info().vms
                before = resource.getrlimit(resource.RLIMIT_AS)
                resource.setrlimit(resource.RLIMIT_AS, (held + BIG // 2, before[1]))
                try:
                    return work(part)
                finally:
                    resource.setrlimit(resource.RLIMIT_AS, before)

            finder.work = tight
            yield finder


@dataclass(frozen=True)
class GreedyJob(DyingJob):
    """Its worker takes memory at one part until Ray's memory monitor kills it.

    Attributes:
        most: bytes that it takes at most.
    """

    most: int = 3 * ROOM

    @contextlib.contextmanager
    def open(self) -> Iterator[Finder]:
        with DetectJob.open(self) as finder:
            work = finder.work

            def greedy(part: Part) -> Any:
                marks = Path(self.marks)
                if part.id == self.victim and len(list(marks.iterdir())) < self.deaths:
                    (marks / str(time.monotonic_ns())).touch()
                    held = []
                    while len(held) * PIECE < self.most:
                        held.append(b"\1" * PIECE)
                        time.sleep(0.02)
                    time.sleep(5.0)  # the monitor looks once a while
                    raise AssertionError(f"not killed with {self.most} bytes")
                return work(part)

            finder.work = greedy
            yield finder


@dataclass(frozen=True)
class SeeingJob(DetectJob):
    """Notes which GPU each worker sees, and which it takes.

    Attributes:
        seen: a folder, in which each leaves a file.
    """

    seen: str = ""

    @contextlib.contextmanager
    def open(self) -> Iterator[Finder]:
        with super().open() as finder:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            note = f"{visible} {self.detector.device} {self.readers}"
            (Path(self.seen) / str(os.getpid())).write_text(note)
            yield finder


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "parts").iterdir()}


@contextlib.contextmanager
def two_nodes(**of_head: Any) -> Iterator[tuple[Any, Any]]:
    """Yield a cluster and its second node."""
    node = {"num_cpus": 1, "object_store_memory": 100 << 20}
    head = {**node, **of_head, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster, cluster.add_node(**node)
    finally:
        cluster.shutdown()


class Cases:
    """Runs over the same parts, each held against the one in this process.

    Args:
        folder: for all that is written.
        model: the network's file.
        drives: of the recordings.
        names: the only cases; empty for all.

    Attributes:
        results: what came of each case.
    """

    def __init__(self, folder: Path, model: Path, drives: Path, names: Sequence[str]) -> None:
        self._folder, self._names = folder, names
        (folder / "big").mkdir()
        side = int((BIG / 3) ** 0.5)
        cv2.imwrite(str(folder / "big" / "0.png"), np.zeros((side, side, 3), np.uint8))
        sources = [str(drives), str(drives / "pictures"), str(folder / "big")]
        self._parts = plan_parts(sources, SourceOptions(part_frames=2))
        detector = DetectorOptions(model=model, device=CPU, threads=1)
        self._job = DetectJob(detector, ThresholdOptions(score_threshold=0.05))
        whole = run(self._job, self._parts, folder / "whole", ONCE)
        self._good = [part for part in self._parts if part.id not in whole.failures]
        self._expected = files(folder / "whole")
        self.results: dict[str, Any] = {"parts": len(self._parts), "frames": whole.frames}

    def faults(self) -> None:
        """Run each case on one cluster; the last one kills its second node."""
        # Ray takes our word for the GPUs; the network on them is a simulated one.
        with two_nodes(num_gpus=2) as (cluster, second), contextlib.ExitStack() as stack:
            self._other_versions(cluster)
            workers = stack.enter_context(self._connected(cluster))
            self._case("workers", lambda out: self._run(out, workers))
            apart = replace(workers, workers=1, decoders=1)
            self._case("decoders", lambda out: self._run(out, apart))
            self._deadly(DyingJob, "worker_dies", workers)
            self._deadly(TightJob, "no_memory", workers, RunOptions(retries=1), self._good[-1])
            for name, device, engine, count in (
                ("gpu_each", Device("gpu", 1), "simulated", None),
                ("gpus_shared", Device("gpu"), "simulated", 4),
                ("gpu_without_engine", None, "tensorrt", None),
            ):
                self._on_gpus(cluster, name, device, engine, count)
            self._without_gpus(cluster)
            self._case("interrupted", lambda out: self._interrupted(out, workers))
            self._case("full_disk", lambda out: self._full_disk(out, workers))
            self._case("node_killed", lambda out: self._node_killed(out, workers, cluster, second))

    def out_of_memory(self) -> None:
        """Run the cases in which Ray's memory monitor kills workers."""
        memory = psutil.virtual_memory()
        if memory.available < 4 * ROOM:
            self.results["memory"] = f"{memory.available} bytes free"
            return
        threshold = (memory.total - memory.available + ROOM) / memory.total
        os.environ |= {
            "RAY_memory_usage_threshold": f"{threshold:.4f}",
            "RAY_memory_monitor_refresh_ms": "100",
        }
        with two_nodes() as (cluster, _), self._connected(cluster) as workers:
            self._deadly(GreedyJob, "memory_monitor", workers)

    def _case(self, name: str, work: Callable[[Path], Summary]) -> None:
        if self._names and name not in self._names:
            return
        begin, out = time.monotonic(), self._folder / name
        try:
            summary = work(out)
            states = read_manifest(out, ".parquet")[1]
            found = {
                "same": files(out) == self._expected,
                "missing": sorted(self._expected.keys() - files(out).keys()),
                "failed": summary.failures,
                "frames": sum(each["frames"] for each in states),
                "attempts": sum(each["attempts"] for each in states),
                "seconds": round(time.monotonic() - begin, 1),
            }
        except Exception:
            found = {"raised": traceback.format_exc()}
        self.results[name] = found
        print(name, json.dumps(found), file=sys.stderr, flush=True)

    def _run(self, out: Path, runner: Any, job: DetectJob | None = None, **others: Any) -> Summary:
        return run(job or self._job, self._parts, out, ONCE, runner=runner, **others)

    def _connected(self, cluster: Any, device: Device | None = CPU, workers: Any = 2) -> Any:
        return connected(RunOptions(ray=cluster.address, workers=workers), device)

    def _other_versions(self, cluster: Any) -> None:
        for module, name, other in (
            (ray_cluster, "__version__", "0.0"),
            (ray, "__version__", "2.1.0"),
            (sys, "version_info", (3, 9, 1, "final", 0)),
        ):
            case, own = f"other {module.__name__.rpartition('.')[2]}", getattr(module, name)
            setattr(module, name, other)
            try:
                with self._connected(cluster):
                    self.results[case] = "taken"
            except ConfigurationError as error:
                self.results[case] = str(error)
            finally:
                setattr(module, name, own)

    def _deadly(
        self,
        kind: type[DyingJob],
        name: str,
        workers: Any,
        options: RunOptions = ONCE,
        victim: Part | None = None,
    ) -> None:
        """Let a worker die at one part once, and each time."""
        for case, deaths in ((name, 1), (f"{name}_always", 99)):
            marks = self._folder / f"marks_{case}"
            marks.mkdir()
            given = {"victim": (victim or self._good[1]).id, "marks": str(marks), "deaths": deaths}
            job = kind(self._job.detector, self._job.thresholds, **given)
            self._case(
                case,
                lambda out, job=job: run(job, self._parts, out, options, runner=workers),
            )
            self.results.setdefault(case, {})["deaths"] = len(list(marks.iterdir()))

    def _on_gpus(
        self, cluster: Any, name: str, device: Device | None, engine: str, count: int | None
    ) -> None:
        seen = self._folder / f"seen_{name}"
        seen.mkdir()
        detector = replace(self._job.detector, device=device, engine=engine, latency=0.5)
        job = SeeingJob(detector, self._job.thresholds, seen=str(seen))
        with self._connected(cluster, device, count) as gpus:
            self._case(name, lambda out: self._run(out, gpus, job))
        notes = sorted(file.read_text() for file in seen.iterdir())
        self.results.setdefault(name, {})["seen"] = notes

    def _without_gpus(self, cluster: Any) -> None:
        ray.cluster_resources, resources = lambda: {"CPU": 2.0}, ray.cluster_resources
        try:
            with self._connected(cluster, Device("gpu")):
                self.results["no_gpu"] = "taken"
        except ConfigurationError as error:
            self.results["no_gpu"] = str(error)
        ray.cluster_resources = resources

    def _interrupted(self, out: Path, workers: Any) -> Summary:
        def interrupt(what: str, done: float, total: float | None, note: str = "") -> None:
            if done == 2:
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

        with contextlib.suppress(KeyboardInterrupt):
            self._run(out, workers, on_progress=interrupt)
            time.sleep(1.0)  # all parts were done before
        self.results["interrupted_left"] = len(self._parts) - len(files(out))
        return self._run(out, workers)

    def _full_disk(self, out: Path, workers: Any) -> Summary:
        write, room = manifests.write_whole, [4]

        def no_space(place: Any, data: bytes) -> None:
            room[0] -= 1
            if room[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
            write(place, data)

        manifests.write_whole = no_space
        try:
            self._run(out, workers)
        except OSError as error:
            self.results["full_disk_error"] = str(error)
        finally:
            manifests.write_whole = write
        return self._run(out, workers)

    def _node_killed(self, out: Path, workers: Any, cluster: Any, node: Any) -> Summary:
        def kill(what: str, done: float, total: float | None, note: str = "") -> None:
            if done == 1:
                cluster.remove_node(node, allow_graceful=False)

        return self._run(out, workers, on_progress=kill)


if __name__ == "__main__":
    cases = Cases(*map(Path, sys.argv[1:4]), names=sys.argv[4:])
    cases.faults()
    cases.out_of_memory()
    print(json.dumps(cases.results))
