# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ModelSizes: further sizes of the models, loaded beside what runs as the cameras' images ask."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from yolox_trt.core.device import Device
from yolox_trt.core.errors import EngineError, YoloxTrtError
from yolox_trt.core.input_size import Size, format_size, in_size
from yolox_trt.detectors.auto_size import MOST_SIZES
from yolox_trt.detectors.detector import Detector
from yolox_trt.executor.inference_executor import InferenceExecutor

_LOGGER = logging.getLogger(__name__)

#: Is called with the executor's name of a model at the size that a camera gets.
OnChosen = Callable[[str], None]


@dataclass
class _Sizes:
    """The sizes of one model.

    Attributes:
        loaded: (height, width) -> the executor's name of the model at that size.
        loading: those on their way -> who waits for them.
        full: whether no further one is loaded.
    """

    loaded: dict[Size, str] = field(default_factory=dict)
    loading: dict[Size, list[OnChosen]] = field(default_factory=dict)
    full: bool = False


class ModelSizes:
    """Loads models at further sizes.

    Engines are made in threads of their own, one after the other: a build may take minutes, for
    which a camera is served at the size that it has. Publishers decide the shapes of images, so
    the sizes are limited as those of an AutoSizeDetector are.

    Args:
        executor: is given the further models.
        create: (Device, executor's name) -> Detector.
        defer: calls what it is given, in the thread in which answers are wanted.
    """

    def __init__(
        self,
        executor: InferenceExecutor,
        create: Callable[[Device, str], Detector],
        defer: Callable[[Callable[[], None]], None],
    ) -> None:
        self._executor = executor
        self._create = create
        self._defer = defer
        self._models: dict[str, _Sizes] = {}
        self._lock = threading.Lock()
        self._one_load = threading.Lock()
        self._closed = False
        self._most = min(MOST_SIZES[device.kind] for device in executor.devices)

    def add(self, model: str, size: Size, name: str) -> None:
        """Note what the executor has already: a model at a size, and its name there."""
        self._models.setdefault(model, _Sizes()).loaded[size] = name

    def name_of(self, model: str, size: Size | None) -> str:
        """Return the executor's name of a model at a size, or at the first one that was loaded."""
        loaded = self._models[model].loaded
        return loaded.get(size) or next(iter(loaded.values()))  # type: ignore[arg-type]

    def load(self, model: str, wanted: Size, name: str, picture: Size, on_chosen: OnChosen) -> None:
        """Load a model at a size, if it is not there yet; in any thread.

        Args:
            model: the model.
            wanted: the size.
            name: what the executor will call it.
            picture: (height, width) of the images, which choose where that size cannot be.
            on_chosen: is called, by `defer`, when it is there; with the name of the loaded size in
                which the images are largest where no further one can be.
        """
        with self._lock:
            sizes = self._models[model]
            if wanted in sizes.loading:
                sizes.loading[wanted].append(on_chosen)
                return
            if wanted in sizes.loaded or sizes.full or self._closed:
                self._answer(sizes, wanted, picture, [on_chosen])
                return
            if len(sizes.loaded) + len(sizes.loading) >= self._most:
                reason = f"{self._most} sizes are loaded, which is the most"
                self._refuse(sizes, name, picture, reason)
                self._answer(sizes, wanted, picture, [on_chosen])
                return
            sizes.loading[wanted] = [on_chosen]
        # A daemon: a build that takes minutes must not hold up Ctrl-C.
        load = functools.partial(self._load, sizes, wanted, name, picture)
        threading.Thread(target=load, name=f"load {name}", daemon=True).start()

    def close(self) -> None:
        """Load nothing any more; what is being loaded is closed when it is there."""
        self._closed = True

    def _load(self, sizes: _Sizes, wanted: Size, name: str, picture: Size) -> None:
        detectors: dict[Device, Detector] = {}
        refusal = ""
        with self._one_load:
            try:
                for device in self._executor.devices:
                    if self._closed:
                        raise EngineError("nothing is loaded any more")
                    detectors[device] = self._create(device, name)
                self._executor.add_model(name, detectors)
            except Exception as error:
                # Whatever it is, the camera is served as before.
                known = isinstance(error, YoloxTrtError)
                refusal = str(error) if known else f"{type(error).__name__}: {error}"
                for detector in detectors.values():
                    detector.close()
        with self._lock:
            waiting = sizes.loading.pop(wanted)
            if not refusal:
                sizes.loaded[wanted] = name
            elif not self._closed:
                self._refuse(sizes, name, picture, refusal)
            self._answer(sizes, wanted, picture, waiting)

    @staticmethod
    def _refuse(sizes: _Sizes, name: str, picture: Size, reason: str) -> None:
        sizes.full = True
        size = _nearest(sizes, picture)
        what = f"images of {format_size(picture)} (H x W) run at {format_size(size)}"
        _LOGGER.warning("%s, without %s: %s", what, name, reason)

    def _answer(self, sizes: _Sizes, wanted: Size, picture: Size, waiting: list[OnChosen]) -> None:
        size = wanted if wanted in sizes.loaded else _nearest(sizes, picture)
        for on_chosen in waiting:
            self._defer(functools.partial(on_chosen, sizes.loaded[size]))


def _nearest(sizes: _Sizes, picture: Size) -> Size:
    return max(sizes.loaded, key=lambda size: in_size(size, picture))
