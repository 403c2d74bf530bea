# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""AutoSizeDetector: one model at the input sizes that fit the images."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, replace

from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import EngineError, ModelError
from yolox_trt.core.faults import DeviceBrokenError
from yolox_trt.core.frame import Frame
from yolox_trt.core.input_size import Size, best_size, format_size, in_size
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors.detector import Detector, StageTimes, Ticket
from yolox_trt.detectors.options import DetectorOptions

_LOGGER = logging.getLogger(__name__)

#: Sizes that are held open at most: each has buffers of its own, and on a GPU an engine that may
#: take minutes to build.
MOST_SIZES = {"cpu": 8, "gpu": 3, "dla": 3}
#: Shapes of images whose size is remembered.
_MOST_SHAPES = 256


def picture_of(frame: Frame) -> Size:
    """Return (height, width) of what a network sees of a frame, in source pixels."""
    if frame.roi is not None:
        return frame.roi.height, frame.roi.width
    return frame.full_size or (frame.height, frame.width)


class AutoSizeDetector(Detector):
    """A Detector that opens its model at another input size when images of another shape come.

    Each image runs at best_size() of its shape, which is logged once. Beyond MOST_SIZES sizes, and
    from the first on that cannot be opened, it is the open one in which the picture is largest,
    with one warning; or, with DetectorOptions.exact_sizes, the size that was used longest ago is
    closed for it. Images of different sizes in one call run one size after the other: an executor,
    which must know how long a call takes, is given a Detector of each size instead.

    Args:
        options: with the input size "model".
        create: makes the Detector of a size.
    """

    def __init__(
        self, options: DetectorOptions, create: Callable[[DetectorOptions], Detector]
    ) -> None:
        own = create(options)
        super().__init__(own.device, own.spec, own.max_batch)
        self.reads_device_arrays = own.reads_device_arrays
        # The others go where `auto` has put the first.
        self._options = replace(options, device=own.device)
        self._create = create
        self._open: dict[Size, Detector] = {own.spec.input_size: own}
        self._chosen: dict[Size, Detector] = {}
        self._most = MOST_SIZES[own.device.kind]
        self._full = False

    @property
    def sizes(self) -> tuple[Size, ...]:
        """(height, width) of the sizes that are open, the model's own first."""
        return tuple(self._open)

    def close(self) -> None:
        """Release all sizes; the detector cannot be used afterwards."""
        self._closed = True
        for detector in self._open.values():
            detector.close()

    def _start(self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]) -> Ticket:
        found: dict[int, Detections] = {}
        times = StageTimes()
        for detector, indices in self._groups(frames):
            for first in range(0, len(indices), detector.max_batch):
                part = indices[first : first + detector.max_batch]
                results = detector.detect([frames[i] for i in part], [options[i] for i in part])
                found.update(zip(part, results, strict=True))
                pairs = zip(astuple(times), astuple(detector.stage_times), strict=True)
                times = StageTimes(*(a + b for a, b in pairs))
        self.stage_times = times
        return Ticket(len(frames), result=[found[i] for i in range(len(frames))])

    def _groups(self, frames: Sequence[Frame]) -> Iterator[tuple[Detector, list[int]]]:
        """Yield the Detector of some images, which is open until the next is asked for."""
        if not self._options.exact_sizes:
            groups: dict[Detector, list[int]] = {}
            for index, frame in enumerate(frames):
                groups.setdefault(self._detector_for(picture_of(frame)), []).append(index)
            yield from groups.items()
            return
        sizes: dict[Size, list[int]] = {}
        for index, frame in enumerate(frames):
            sizes.setdefault(self._best(picture_of(frame)), []).append(index)
        for size, indices in sizes.items():
            yield self._opened(size, picture_of(frames[indices[0]])), indices

    def _best(self, picture: Size) -> Size:
        return best_size(self.spec.input_size, picture, self.spec.size_step)

    def _opened(self, size: Size, picture: Size) -> Detector:
        """Return the Detector of a size, for which another one may be closed."""
        detector = self._open.pop(size, None)
        if detector is None:
            if len(self._open) >= self._most:  # the first, the model's own, stays
                self._open.pop(list(self._open)[1]).close()
            detector = self._open_size(size, picture)
        if size != self.spec.input_size:
            self._open[size] = detector  # the last one is the one used last
        else:
            self._open = {size: detector, **self._open}
        return detector

    def _finish(self, ticket: Ticket) -> list[Detections]:
        return ticket.result

    def _detector_for(self, picture: Size) -> Detector:
        """Return the Detector of a picture's shape, opened now if it is the first of it."""
        detector = self._chosen.get(picture)
        if detector is None:
            wanted = self._best(picture)
            detector = self._open.get(wanted) or self._open_size(wanted, picture)
            if len(self._chosen) > _MOST_SHAPES:  # a folder may have as many shapes as images
                self._chosen.clear()
            self._chosen[picture] = detector
        return detector

    def _open_size(self, wanted: Size, picture: Size) -> Detector:
        """Open a size, or return the best of those that are open where that cannot be."""
        what = f"{self._options.name}: images of {format_size(picture)} (H x W) run at"
        nearest = max(self._open, key=lambda size: in_size(size, picture))
        if self._full:
            return self._open[nearest]
        try:
            if len(self._open) >= self._most:
                raise EngineError(f"{self._most} sizes are open, which is the most")
            detector = self._create(replace(self._options, input_size=wanted))
            with contextlib.ExitStack() as stack:
                stack.callback(detector.close)
                detector.warmup()
                stack.pop_all()
        except DeviceBrokenError:
            raise
        except (ModelError, EngineError) as error:
            if self._options.exact_sizes:
                raise
            self._full = True
            _LOGGER.warning("%s %s, not %s: %s", what, *map(format_size, (nearest, wanted)), error)
            return self._open[nearest]
        _LOGGER.info("%s %s", what, format_size(wanted))
        self._open[wanted] = detector
        return detector
