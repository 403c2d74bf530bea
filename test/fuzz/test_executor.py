# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Random schedules of an executor: streams and models that come and go, devices that fail, and
threads and callbacks that stop and start it.
"""

from __future__ import annotations

import faulthandler
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.executors import CPU, DLA0, GPU, PATIENCE, adds_up, frame, new_threads, wait_until
from support.fuzz import examples, keep
from support.simulated_detector import SimulatedDetector

from yolox_trt.core import Detections, Device, Frame, PostprocessOptions
from yolox_trt.core.errors import ConfigurationError, EngineError
from yolox_trt.detectors.detector import Ticket
from yolox_trt.engines.simulated import ConstantLatency, Fault, FaultInjector, simulated_spec
from yolox_trt.executor import (
    DropReason,
    InferenceExecutor,
    SchedulerOptions,
    StreamConfig,
    StreamResult,
)
from yolox_trt.executor.outcomes import REFUSALS, SubmitOutcome
from yolox_trt.executor.snapshot import StreamSnapshot

DEVICES = (GPU, DLA0, CPU)
#: Ids of streams; few, so that one is removed, added again, and added twice.
NAMES = ("a", "b", "c", "d")
#: Seconds of a hang, and of a callback that takes long: longer than what waits for them.
HANG = 0.4
#: Callbacks, and calls of each device, that do not return before all is over.
BLOCKED = 2
OPTIONS = SchedulerOptions(
    watchdog=0.1, watchdog_factor=2.0, callback_limit=0.1, backoff=0.02, backoff_max=0.1
)


class Checking(SimulatedDetector):
    """Notes thresholds of classes that its network does not have."""

    unfit: list[PostprocessOptions]

    def enqueue(self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]) -> Ticket:
        for each in options:
            if not set(each.class_thresholds) <= set(range(self.spec.num_classes)):
                self.unfit.append(each)
        return super().enqueue(frames, options)


class Schedule:
    """One executor, what is done to it, and what its callbacks told.

    Args:
        seed: of everything that is random, but for what threads do by themselves.
    """

    def __init__(self, seed: int) -> None:
        self.random = rng = random.Random(seed)
        self.faults = {device: FaultInjector() for device in DEVICES}
        #: Model -> classes.
        self.models = {"default": 8, "other": 4}
        self.number = 0
        #: Whether nobody stops it any more; whether what blocks returns.
        self.calm = False
        self.over = threading.Event()
        self.blocked = 0
        self.hung: Counter[Device] = Counter()
        self.unfit: list[PostprocessOptions] = []
        self.results = 0
        self.lock = threading.Lock()
        #: By number: how often a frame gave a result or was dropped, and the order of results.
        self.ends: Counter[int] = Counter()
        self.order: dict[str, list[int]] = defaultdict(list)
        self.accepted: set[int] = set()
        #: Of each stream that there is: what submit() and the callbacks told.
        self.sent: dict[str, Counter[Any]] = {}
        detectors = {
            (device, model): self.detector(device, classes)
            for device in DEVICES
            for model, classes in self.models.items()
            if rng.random() < 0.8
        } or {(CPU, "default"): self.detector(CPU, 8)}
        self.executor = InferenceExecutor(
            detectors,
            policy=rng.choice(("static", "balanced", "dynamic")),
            options=OPTIONS,
            factory=self.make,
            max_batch=rng.choice((0, 1, 3)),
            overlap=rng.random() < 0.7,
        )

    def detector(self, device: Device, classes: int) -> SimulatedDetector:
        rng = self.random

        def result(found_in: Frame) -> Detections:
            if found_in.stream_id and rng.random() < 0.002 and self.hung[device] < BLOCKED:
                self.hung[device] += 1
                self.over.wait(2.0 * PATIENCE)
            return Detections.empty()

        made = Checking(
            device,
            ConstantLatency(rng.choice((0.0005, 0.002, 0.008))),
            simulated_spec(num_classes=classes),
            max_batch=rng.choice((1, 2, 4)),
            max_calls=rng.choice((1, 1, 2, 3)),
            faults=self.faults[device],
            fails_in=rng.choice(("enqueue", "collect")),
            result=result,
        )
        made.unfit = self.unfit
        return made

    def make(self, device: Device, model: str) -> SimulatedDetector:
        if self.random.random() < 0.2:
            raise EngineError("it cannot be loaded", fix="again")
        return self.detector(device, self.models[model])

    # Callbacks ---------------------------------------------------------------------------------

    def on_result(self, result: StreamResult) -> None:
        with self.lock:
            self.ends[result.frame.stamp_ns] += 1
            self.order[result.frame.stream_id].append(result.frame.stamp_ns)
            self.results += 1
        self.misbehave()

    def on_drop(self, dropped: Frame, reason: DropReason) -> None:
        with self.lock:
            self.ends[dropped.stamp_ns] += 1
        # The test's own threads must go on.
        if threading.current_thread().name.startswith("executor-"):
            self.misbehave()

    def misbehave(self) -> None:
        """Do what a callback should not."""
        with self.lock:
            chance = self.random.random()
            blocks = 0.2 < chance < 0.205 and self.blocked < BLOCKED and not self.calm
            self.blocked += blocks
        if blocks:
            self.over.wait(2.0 * PATIENCE)
        elif chance < 0.01:
            time.sleep(HANG)
        elif chance < 0.02:
            raise RuntimeError("a callback that fails")
        elif chance < 0.03:
            raise SystemExit("a callback that is to end its thread")
        elif chance < 0.05 and not self.calm:
            self.random.choice((self.start, self.stop))()

    # Steps -------------------------------------------------------------------------------------

    def submit(self) -> None:
        """Submit some frames, in the order of their numbers; to a stream that is not there, too."""
        for _ in range(self.random.randint(1, 12)):
            name, self.number = self.random.choice(NAMES), self.number + 1
            model = self.random.choice(("", "", *self.models, "none"))
            age = self.random.choice((0.0, 0.0, 0.02))
            outcome = self.executor.submit(frame(name, self.number), age, model)
            if outcome.accepted:
                self.accepted.add(self.number)
            if outcome is not SubmitOutcome.UNKNOWN_STREAM:
                self.sent[name][outcome] += 1

    def settings(self) -> dict[str, Any]:
        rng = self.random
        return {
            "model": rng.choice([*self.models]),
            "queue_depth": rng.choice((1, 1, 3, 10)),
            "overflow": rng.choice(("drop_oldest", "drop_newest")),
            "max_rate": rng.choice((0.0, 0.0, 20.0)),
            "stale_after": rng.choice((0.0, 0.0, 0.01)),
            "withhold_late": rng.random() < 0.3,
            "deadline": rng.choice((0.0, 0.01)),
            "priority": rng.choice((0, 0, 5)),
            "weight": rng.choice((1, 4)),
            "device": rng.choice(("auto", "auto", "gpu", "cpu", "dla1")),
            "enabled": rng.random() < 0.9,
            "allow_model_change": rng.random() < 0.3,
            "options": PostprocessOptions(
                class_thresholds=rng.choice(({}, {}, {3: 0.5}, {1: 0.2, 7: 0.5}))
            ),
        }

    def add_stream(self) -> None:
        name = self.random.choice(NAMES)
        config = StreamConfig(id=name, **self.settings())
        try:
            self.executor.add_stream(config, self.on_result, self.on_drop)
        except ConfigurationError:
            return
        assert name not in self.sent
        self.sent[name] = Counter()

    def update_stream(self) -> None:
        settings = self.settings()
        chosen = self.random.sample(sorted(settings), self.random.randint(1, len(settings)))
        try:
            name = self.random.choice(NAMES)
            self.executor.update_stream(name, **{each: settings[each] for each in chosen})
        except ConfigurationError:
            return
        assert name in self.sent

    def remove_stream(self) -> None:
        name = self.random.choice(NAMES)
        try:
            last = self.executor.remove_stream(name)
        except ConfigurationError:
            assert name not in self.sent
            return
        self.check_counters(last, self.sent.pop(name))

    def add_model(self) -> None:
        name = self.random.choice((f"model{len(self.models)}", *self.models))
        devices = self.random.sample(DEVICES, self.random.randint(1, len(DEVICES)))
        classes = self.models.get(name, self.random.choice((4, 8)))
        # A device that comes back asks the factory for it at once.
        self.models[name] = classes
        detectors = {each: self.detector(each, classes) for each in devices}
        try:
            self.executor.add_model(name, detectors)
        except (ConfigurationError, EngineError):
            return

    def fault(self) -> None:
        fault = self.random.choice((Fault.RAISE, Fault.NAN, Fault.HANG, Fault.OUT_OF_MEMORY))
        injector = self.faults[self.random.choice(DEVICES)]
        injector.inject(fault, count=self.random.randint(1, 3), seconds=HANG)

    def start(self) -> None:
        self.executor.start()

    def stop(self) -> None:
        self.executor.stop(self.random.choice((0.0, 0.05, 2.0)))

    def rest(self) -> None:
        time.sleep(self.random.choice((0.0, 0.001, 0.02, 0.15)))

    def look(self) -> None:
        snapshot = self.executor.snapshot()
        assert set(snapshot.streams) == set(self.sent)
        for name, stream in snapshot.streams.items():
            self.check_counters(stream, self.sent[name])

    def check_counters(self, stream: StreamSnapshot, sent: Counter[Any]) -> None:
        assert adds_up(stream), stream
        assert stream.received == sent.total()
        for outcome, reason in REFUSALS.items():
            assert stream.dropped[reason] >= sent[outcome], (stream, sent)

    def disturb(self) -> None:
        """Stop and start it on another thread than that of the steps."""
        while not self.calm:
            self.random.choice((self.start, self.stop, self.rest, self.rest))()

    def run(self, steps: int) -> None:
        """Do random steps; then let all come to rest, and check what came of each frame."""
        before = threading.enumerate()
        disturber = threading.Thread(target=self.disturb, daemon=True)
        if self.random.random() < 0.5:
            disturber.start()
        often = [self.submit] * 6 + [self.rest] * 3 + [self.add_stream] * 2
        seldom = [self.update_stream, self.remove_stream, self.add_model, self.fault, self.look]
        self.start()
        for _ in range(3):
            self.add_stream()
        for _ in range(steps):
            self.random.choice([*often, *seldom, self.start, self.stop])()
        self.calm = True
        if disturber.ident is not None:
            disturber.join(PATIENCE)
            assert not disturber.is_alive()
        for injector in self.faults.values():
            injector.clear()
        self.check_service()
        self.look()
        self.close()
        assert wait_until(lambda: not new_threads(before)), new_threads(before)
        assert set(self.ends) == self.accepted
        assert set(self.ends.values()) <= {1}
        for numbers in self.order.values():
            assert numbers == sorted(numbers)
        snapshot = self.executor.snapshot()
        processed = sum(stream.processed for stream in snapshot.streams.values())
        assert processed + snapshot.removed_processed == self.results
        assert not self.unfit

    def close(self) -> None:
        """Close it, perhaps also from a callback and on another thread; what blocks returns."""
        other = threading.Thread(target=self.executor.close, args=(0.1,), daemon=True)
        if self.random.random() < 0.3:
            model = self.executor_model()

            def closing(result: StreamResult) -> None:
                with self.lock:
                    self.results += 1
                self.executor.close(0.05)

            self.executor.add_stream(StreamConfig(id="closing", model=model), closing)
            self.executor.submit(frame("closing"))
        if self.random.random() < 0.5:
            other.start()
        self.executor.close(0.05)
        self.over.set()
        assert wait_until(lambda: self.executor.close(PATIENCE))  # what hung is not waited for

    def check_service(self) -> None:
        """Fail unless a new stream gets a result, whatever has happened."""
        arrived = threading.Event()

        def on_result(result: StreamResult) -> None:
            with self.lock:
                self.results += 1
            arrived.set()

        config = StreamConfig(id="last", model=self.executor_model())
        self.executor.add_stream(config, on_result)

        def served() -> bool:
            self.executor.start()  # a callback may have been about to stop it
            self.executor.submit(frame("last"))
            return arrived.wait(0.02)

        assert wait_until(served), self.executor.snapshot()
        self.executor.remove_stream("last")

    def executor_model(self) -> str:
        """Return a model that some device has."""
        for name in self.models:
            try:
                config = StreamConfig(id="probe", model=name)
                self.executor.add_stream(config, lambda result: None)
            except ConfigurationError:
                continue
            self.executor.remove_stream("probe")
            return name
        raise AssertionError("no model")


@examples(4)
@given(seed=st.integers(0, 1 << 32))
def test_schedules(seed: int) -> None:
    """Each frame that was accepted ends once, in order, and the counters add up all the time."""
    keep(seed)
    died: list[Any] = []
    hook, threading.excepthook = threading.excepthook, died.append
    faulthandler.dump_traceback_later(4 * PATIENCE)  # a dead lock: who waits for what
    try:
        Schedule(seed).run(60)
    finally:
        threading.excepthook = hook
        faulthandler.cancel_dump_traceback_later()
    assert not died
