# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The same work on a Ray cluster: Ray Data hands the parts to actors that hold a worker each.

Ray Data schedules, restarts actors and computes again what a lost machine held. A part whose worker
dies each time is given up by Ray and fails, and the others go on. Where a machine has gone, Ray may
give up its parts, too, for it asks that machine until it knows: the caller has them done anew.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import socket
import tempfile
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yolox_trt import __version__
from yolox_trt.batch.detection import MOST_READERS, DetectJob, Finder, Row, table_outcome
from yolox_trt.batch.frames import open_part, pieces
from yolox_trt.batch.job import LESS_MEMORY, Job, Outcome, Worker, failed, work_on
from yolox_trt.batch.options import RunOptions
from yolox_trt.batch.plan import Part
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError, YoloxTrtError
from yolox_trt.core.frame import Frame
from yolox_trt.core.option import options_of
from yolox_trt.core.optional import require
from yolox_trt.detectors.options import DetectorOptions

#: Seconds in which a cluster must answer.
ANSWER_S = 10.0
#: Seconds in which a cluster of this machine must have started.
_START_S = 300.0
LOCAL, AUTO = "local", "auto"
_CLIENT_PORT, _PORT = 10001, 6379
_NAMED = options_of(RunOptions)
_DEVICE = options_of(DetectorOptions)["device"]
#: A part is worked on so often by one run of Ray Data, where its worker dies.
_DEATHS = 2
_DIED = (
    f"its worker died, as one does that is out of memory or whose machine is gone; {LESS_MEMORY}"
)


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process is connected to.

    Attributes:
        dashboard: address of Ray's page, "" where it has none.
        workers: how many work at a time.
        gpus: GPUs of each of them, or its share of one.
        cores: cores for each of them that has a GPU.
        decoders: how many decode for them; 0: they do it themselves.
    """

    dashboard: str
    workers: int
    gpus: float
    cores: int
    decoders: int

    def __call__(self, job: Job, parts: Sequence[Part]) -> Generator[Outcome, None, None]:
        """Work on parts; see run.Runner."""
        ray_data = require("ray.data", purpose="--ray")
        context = ray_data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # its own words on each step
        # What a dead worker leaves undone is counted by the caller.
        context.max_errored_blocks = -1
        context.target_max_block_size = 1  # a block a row: nothing waits for another part's rows
        files = {name: path.read_bytes() for name, path in job.files().items()}
        by_id = {part.id: part for part in parts}
        rows = ray_data.from_items(
            [{"part": pickle.dumps(part)} for part in parts], override_num_blocks=len(parts)
        )
        in_flight: int | None = 1  # a part that waited for a worker would die with the one in work
        if self.decoders and isinstance(job, DetectJob):
            in_flight = None  # pieces do wait, for a GPU that is never idle
            rows = rows.map_batches(
                _decode,
                fn_kwargs={"multiple": job.multiple},
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=1,
                compute=ray_data.TaskPoolStrategy(size=self.decoders),
            )
        with warnings.catch_warnings():
            # Ray 2.60 has no other way to give up a part whose workers die; it goes with 2.64.
            warnings.simplefilter("ignore")
            rows = rows.map_batches(
                _Actor,
                fn_constructor_kwargs={"job": self._placed(job), "files": files},
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=0 if self.gpus else self._cpus(job),
                num_gpus=self.gpus,
                compute=ray_data.ActorPoolStrategy(
                    size=self.workers, max_tasks_in_flight_per_actor=in_flight
                ),
                max_restarts=-1,
                max_task_retries=_DEATHS,
            )
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        batches = rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        for batch in batches:
            for row in batch.to_pylist():
                answer = pickle.loads(row["answer"])
                if isinstance(answer, YoloxTrtError):  # others would say the same
                    raise answer
                if isinstance(answer, Outcome):
                    by_id.pop(answer.part.id, None)
                    yield answer
                    continue
                got = found[answer["part"]]
                got.append(answer)
                if (outcome := _joined(by_id.get(answer["part"]), got)) is not None:
                    del by_id[answer["part"]], found[answer["part"]]
                    yield outcome
        for part in by_id.values():
            yield Outcome(part, error=_DIED, lost=True)

    def _placed(self, job: Job) -> Job:
        """Return the job for one worker's share of a machine."""
        if not isinstance(job, DetectJob):
            return job
        detector = job.detector
        if not self.gpus:
            placed = replace(detector, device=Device("cpu"), threads=detector.threads or 1)
        elif detector.device is None or detector.device.kind == "gpu":
            # A worker sees its own GPU alone, as the first; and it must not fall back to a core.
            placed = replace(detector, device=Device("gpu"))
        else:
            placed = detector
        readers = job.readers or (min(self.cores, MOST_READERS) if self.gpus else 1)
        return replace(job, detector=placed, readers=readers)

    @staticmethod
    def _cpus(job: Job) -> int:
        return (job.detector.threads or 1) if isinstance(job, DetectJob) else 1


class _Actor:
    """A worker in a process of its own, on any machine of the cluster."""

    def __init__(self, job: Job, files: dict[str, bytes]) -> None:
        self._stack = contextlib.ExitStack()
        folder = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix="yolox_trt_batch_"))
        )
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
            (folder / name).chmod(0o600)
        self._worker: Worker | YoloxTrtError
        try:
            self._worker = self._stack.enter_context(job.with_files(folder).open())
        except YoloxTrtError as error:  # Ray would try again and again, and tell its own story
            self._worker = error

    def __call__(self, batch: Any) -> Any:
        if isinstance(self._worker, YoloxTrtError):
            return _table({"answer": [pickle.dumps(self._worker)]})
        answers: list[Any] = []
        for row in batch.to_pylist() if "frames" not in batch.column_names else _views(batch):
            part = pickle.loads(row["part"])
            if "frames" not in row:
                answers.append(work_on(self._worker, part))
            else:
                answers.append(self._found(part, row))
        return _table({"answer": [pickle.dumps(answer) for answer in answers]})

    def _found(self, part: Part, row: dict[str, Any]) -> Any:
        """Return the rows of a piece that was decoded elsewhere, or a failed part's outcome."""
        head = pickle.loads(row["head"])
        if isinstance(head, Outcome):
            return head
        assert isinstance(self._worker, Finder)
        begin = time.perf_counter()
        try:
            frames, at = [], 0
            for size, metadata in head["frames"]:
                frames.append(Frame.view(row["frames"][at : at + size], **metadata))
                at += size
            rows = self._worker.find(frames)
        except Exception as error:
            return failed(part, error)
        seconds = time.perf_counter() - begin
        names = self._worker.names
        return {**head, "part": part.id, "frames": rows, "names": names, "seconds": seconds}


def _decode(batch: Any, multiple: int) -> Iterator[Any]:
    """Read parts, and yield a row for each piece: its images' bytes, and what is known of them."""
    for row in batch.to_pylist():
        part = pickle.loads(row["part"])

        def made(head: Any, data: bytes = b"", packed: bytes = row["part"]) -> Any:
            return _table({"part": [packed], "head": [pickle.dumps(head)], "frames": [data]})

        try:
            number = 0
            with open_part(part) as source:
                for piece in pieces(source, multiple):
                    data = b"".join(frame.on_host().data.data for frame in piece)
                    yield made({"number": number, "frames": [_head(f) for f in piece]}, data)
                    number += 1
                last = {"number": number, "frames": [], "last": True, "refused": source.refused}
            yield made(last)
        except Exception as error:  # a damaged file may bring up anything
            yield made(failed(part, error))


def _head(frame: Frame) -> tuple[int, dict[str, Any]]:
    names = ("height", "width", "encoding", "step", "stamp_ns", "frame_id", "stream_id")
    metadata = {name: getattr(frame, name) for name in names}
    return frame.data.nbytes, {**metadata, "received_ns": frame.received_ns}


def _views(batch: Any) -> Iterator[dict[str, Any]]:
    """Yield rows whose images are views on Ray's store."""
    for index in range(batch.num_rows):
        row = {name: batch.column(name)[index] for name in batch.column_names}
        plain = {name: row[name].as_py() for name in ("part", "head")}
        yield {**plain, "frames": memoryview(row["frames"].as_buffer())}


def _table(columns: dict[str, list[Any]]) -> Any:
    pa = require("pyarrow", purpose="--ray")
    return pa.table({name: pa.array(rows, pa.large_binary()) for name, rows in columns.items()})


def _joined(part: Part | None, got: list[dict[str, Any]]) -> Outcome | None:
    """Return the outcome of a part once all of its pieces are there."""
    last = next((each for each in got if "last" in each), None)
    numbers = {each["number"]: each for each in got}
    if part is None or last is None or len(numbers) <= last["number"]:
        return None
    rows: list[Row] = [row for number in sorted(numbers) for row in numbers[number]["frames"]]
    outcome = table_outcome(part, rows, last["refused"], last["names"])
    return replace(outcome, seconds=sum(each["seconds"] for each in got))


@contextlib.contextmanager
def connected(options: RunOptions, device: Device | None = None) -> Iterator[Cluster]:
    """Connect to a cluster, or start one of this machine, while the block runs.

    Args:
        options: which, and with how many workers.
        device: where each of them runs its network; None: on a GPU where the cluster has any.

    Raises:
        ConfigurationError: none answers, it runs other versions, or it has too few devices.
        MissingDependencyError: Ray is missing.
    """
    ray = require("ray", purpose="--ray")
    address = str(options.ray)
    _check_answer(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    own = not ray.is_initialized()
    try:
        context = _connect(ray, address) if own else None
        for number, handler in handlers.items():  # Ray has put its own in their place
            if threading.current_thread() is threading.main_thread():
                signal.signal(number, handler)
        resources = ray.cluster_resources()
        _check_versions(ray)
        gpus = 0 if device == Device("cpu") else int(resources.get("GPU", 0))
        if device is not None and device.is_cuda and not gpus:
            raise ConfigurationError(
                (_DEVICE, f" {device} on a Ray cluster without GPUs"),
                expected="GPUs that Ray knows",
                fix=("start Ray with --num-gpus N where it does not find them, or set ", _DEVICE,
                     " to cpu"),
            )  # fmt: skip
        cores = int(resources.get("CPU", 1)) - options.decoders
        workers = options.workers or max(1, gpus or cores)
        if not gpus and workers > max(cores, 0):
            raise ConfigurationError(
                f"a cluster with no GPU in use and {resources.get('CPU', 0):g} cores",
                expected=f"{workers} workers and {options.decoders} decoders to find room",
                fix=("lower ", _NAMED["workers"], " or ", _NAMED["decoders"], ", or add machines"),
            )
        page = getattr(context, "dashboard_url", "") or ""
        yield Cluster(
            page and f"http://{page}",
            workers,
            gpus=_share(gpus, workers),
            cores=max(1, cores // workers),
            decoders=options.decoders,
        )
    finally:
        if own:
            ray.shutdown()


def _share(gpus: int, workers: int) -> float:
    """Return the GPUs of one worker; Ray counts in steps of 1/10,000 of a GPU."""
    if not gpus:
        return 0.0
    return 10_000 // -(-workers // gpus) / 10_000


def _connect(ray: Any, address: str) -> Any:
    """Call ray.init, which may wait for minutes, for ANSWER_S at most."""
    settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    settings["address"] = address
    if address == LOCAL:  # which is started here, and takes its time on a busy machine
        os.environ.setdefault("RAY_raylet_start_wait_time_s", f"{_START_S:g}")
        return ray.init(**settings)
    answer: list[Any] = []

    def connect() -> None:
        try:
            answer.append(ray.init(**settings))
        except BaseException as error:
            answer.append(error)

    thread = threading.Thread(target=connect, name="connect to Ray", daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    if not answer:
        raise _no_cluster(address, f"no answer in {ANSWER_S:g} s")
    if not isinstance(answer[0], BaseException):
        return answer[0]
    if isinstance(answer[0], RuntimeError):  # Ray's own text names both versions
        raise ConfigurationError(
            f"the Ray cluster at {address} ({' '.join(str(answer[0]).split())})",
            expected="the same versions of Ray and Python as here",
            fix="install them on one side",
        ) from answer[0]
    raise _no_cluster(address, " ".join(str(answer[0]).split())) from answer[0]


def _check_answer(address: str) -> None:
    """Raise ConfigurationError where nobody listens at an address: Ray would try for minutes."""
    scheme, separator, rest = address.rpartition("://")
    if address in (LOCAL, AUTO):
        return
    host, _, port = rest.rpartition(":")
    if (separator and scheme != "ray") or not host or not port.isdecimal():
        raise _NAMED["ray"].refusal(address, "local, auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"no Ray cluster at {address} ({reason})",
        expected=f"one that answers within {ANSWER_S:g} s: HOST:{_PORT} of a machine of the "
        f"cluster, or ray://HOST:{_CLIENT_PORT}",
        fix=f"start one: ray start --head --port {_PORT}, and on the other machines "
        f"ray start --address HOST:{_PORT}",
    )


def _check_versions(ray: Any) -> None:
    """Raise ConfigurationError where a machine of the cluster has another yolox_trt."""
    # One actor's start tells it sooner than a part that comes out otherwise.
    with ConfigurationError.instead_of(
        ray.exceptions.RayError,
        "a Ray cluster that does not run a task",
        expected=f"a worker that has started within {_START_S:g} s",
        fix="see `ray status`, and its logs in /tmp/ray/session_latest/logs",
    ):
        task = ray.remote(num_cpus=0, max_retries=0)(_version).remote()
        there = ray.get(task, timeout=_START_S)
    if there != __version__:
        raise ConfigurationError(
            f"yolox_trt {there} on the cluster, {__version__} here",
            expected="one version",
            fix="install the same on all machines",
        )


def _version() -> str:
    try:
        from yolox_trt import __version__ as version
    except ImportError:
        return "none"
    return version
