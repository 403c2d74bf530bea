# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Progress of a TensorRT build: steps where the version tells them, else a line every 5 s."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

from yolox_trt.engines.trt_api import ProgressCallback

_log = logging.getLogger("yolox_trt.build")

_LOG_PERIOD_S = 5.0
#: A build tells thousands of steps; a callback that publishes them needs a few a second.
_LEAST_PERIOD_S = 0.1


class PhaseTree:
    """Fraction done of nested phases, each with a number of steps.

    A phase counts as one step of its parent while it runs, so the fraction is exact in steps and
    a guess in time.
    """

    def __init__(self) -> None:
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # name -> parent, steps, done
        self._best = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Open a phase."""
        self._phases[name] = (parent, max(steps, 1), 0)

    def step(self, name: str, step: int) -> None:
        """Note that step number `step` (from 0) of a phase is done."""
        if name in self._phases:
            parent, steps, _ = self._phases[name]
            self._phases[name] = (parent, steps, min(step + 1, steps))

    def finish(self, name: str) -> None:
        """Close a phase."""
        phase = self._phases.pop(name, None)
        if phase is not None and phase[0] is None:
            self._best = 1.0

    @property
    def fraction(self) -> float:
        """Fraction done, 0 to 1; it never falls."""
        roots = [name for name, (parent, _, _) in self._phases.items() if parent is None]
        if roots:
            self._best = max(self._best, min(self._fraction_of(roots[0]), 1.0))
        return self._best

    def _fraction_of(self, name: str) -> float:
        _, steps, done = self._phases[name]
        children = [n for n, (parent, _, _) in self._phases.items() if parent == name]
        running = max((self._fraction_of(child) for child in children), default=0.0)
        return min(done + running, steps) / steps


def make_monitor(module: Any, on_progress: ProgressCallback) -> Any:
    """Return a trt.IProgressMonitor that calls on_progress(fraction, phase).

    Its attribute `failure` holds what on_progress raised; the build is cancelled then.
    """

    class Monitor(module.IProgressMonitor):
        def __init__(self) -> None:
            # pybind11 trampolines crash when the base class was not initialised.
            module.IProgressMonitor.__init__(self)
            self.failure: BaseException | None = None
            self._tree = PhaseTree()
            self._lock = threading.Lock()  # the builder calls from several threads
            self._told_at = float("-inf")

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._guard():
                self._tree.start(phase_name, parent_phase or None, num_steps)
                self._tell(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._guard():
                self._tree.step(phase_name, step)
                self._tell(phase_name)
            return self.failure is None

        def phase_finish(self, phase_name: str) -> None:
            with self._guard():
                self._tree.finish(phase_name)

        @contextlib.contextmanager
        def _guard(self) -> Iterator[None]:
            try:
                with self._lock:
                    yield
            except BaseException as error:
                # Ctrl-C among them, which Python raises wherever it is. Raised through C++ it
                # could end the process; kept, it cancels the build.
                self.failure = self.failure or error

        def _tell(self, phase: str) -> None:
            now = time.monotonic()
            if self.failure is None and now - self._told_at >= _LEAST_PERIOD_S:
                self._told_at = now
                on_progress(self._tree.fraction, phase)

    return Monitor()


@contextlib.contextmanager
def heartbeat(on_progress: ProgressCallback | None, what: str) -> Iterator[None]:
    """Tell every 5 s that a build goes on, for versions that tell no steps.

    The fraction is 0.0 all the while (it is not known) and the phase names the seconds.
    """
    over = threading.Event()
    started = time.monotonic()

    def beat() -> None:
        while not over.wait(_LOG_PERIOD_S):
            text = f"building {what}, {time.monotonic() - started:.0f} s"
            _log.info("%s", text)
            if on_progress is not None:
                try:
                    on_progress(0.0, text)
                except Exception:
                    _log.exception("progress callback failed")
                    return

    thread = threading.Thread(target=beat, name="build-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
