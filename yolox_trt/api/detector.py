# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Detector: a model on a device, called with whatever holds images."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np

from yolox_trt.api.result import Result
from yolox_trt.api.sources import Arrays, is_one_image, open_sources
from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.frame import Frame
from yolox_trt.core.images import ImageSource
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.option import Option, from_plain, options_of
from yolox_trt.core.postprocess_options import PostprocessOptions, ThresholdOptions
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.core.zones import Zones
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.tracking.options import TrackingOptions
from yolox_trt.tracking.tracker import Tracker, make_tracker

if TYPE_CHECKING:
    import onnx

_LOGGER = logging.getLogger(__name__)

#: A frame, what is in it, and the milliseconds of each stage.
_Found: TypeAlias = tuple[Frame, Detections, dict[str, float]]

_GROUPS: tuple[type[Any], ...] = (DetectorOptions, ThresholdOptions, TrackingOptions, Zones)
_THRESHOLDS = options_of(ThresholdOptions)
_SCORE = replace(_THRESHOLDS["score_threshold"], name="score")
_NMS = replace(_THRESHOLDS["nms_threshold"], name="nms")


class Detector:
    """Detects in images, videos, cameras, bags and arrays.

    Threads may share a Detector: their calls take turns. Leaving a `with` block closes it.

    Args:
        model: path of an ONNX file or a built engine, a name of `yolox_trt models list` (it is
            fetched once), or a loaded ONNX model; None for the shipped model.
        device: auto, cpu, gpu, gpu:N, dla0 or dla1; auto is the GPU if it works, else the CPU.
        precision: of a TensorRT engine: fp32, fp16 or int8.
        score: least score of a detection.
        nms: IoU above which the box with the lower score is dropped.
        classes: names or numbers of the only classes to detect, or one of them; empty for all.
        masks: whether to give the class of each pixel, too.
        tracking: "bytetrack" gives detections ids that they keep from image to image of a source.
        profile: whether to tell the stages of a GPU apart in Result.speed, which takes time; else
            all of it stands under `inference`.
        options: further options by their names, as the command line has them: engine, labels,
            input_size ("608x960"), max_batch, threads, preprocessing, engine_cache, class_score
            ({"person": 0.5}), max_detections, class_agnostic, track_score, track_seconds,
            include_zones and exclude_zones (["0,700 1920,700 1920,1280"]), zone_anchor.

    Attributes:
        device: where it runs.
        names: names of the model's classes, () where it has none.

    Raises:
        ConfigurationError: an unknown model, option or class, a value out of range, or masks of a
            model without a segmentation head.
        ModelError, EngineError, DeviceError: see detectors.factory.create_detector.
    """

    def __init__(
        self,
        model: str | Path | onnx.ModelProto | None = None,
        *,
        device: str = "auto",
        precision: str | None = None,
        score: float = _SCORE.default,
        nms: float = _NMS.default,
        classes: Sequence[str | int] | str | int = (),
        masks: bool = False,
        tracking: str = "none",
        profile: bool = False,
        **options: Any,
    ) -> None:
        named = {"score_threshold", "nms_threshold"}  # here they are score and nms
        known = [
            "score",
            "nms",
            "classes",
            "masks",
            "profile",
            *(name for group in _GROUPS for name in options_of(group) if name not in named),
        ]
        if unknown := sorted(set(options) - set(known)):
            raise ConfigurationError.unknown("option", unknown[0], known, fix="correct the name")
        options |= {"device": str(device), "precision": precision, "tracking": tracking}
        options |= {"score_threshold": _SCORE.plain(score), "nms_threshold": _NMS.plain(nms)}
        for name, value in options.items():
            if isinstance(value, Mapping):
                options[name] = [f"{key}:{each}" for key, each in value.items()]
        detector, thresholds, *others = (
            from_plain(group, {n: v for n, v in options.items() if n in options_of(group)})
            for group in _GROUPS
        )
        self._open(
            replace(detector, model=model, cuda={"profile": True} if profile else {}),
            replace(thresholds, masks=masks),
            *others,
            classes=[classes] if isinstance(classes, str | int) else list(classes),
        )

    @classmethod
    def of(
        cls,
        options: DetectorOptions,
        thresholds: ThresholdOptions,
        tracking: TrackingOptions,
        zones: Zones,
        *,
        classes: Sequence[str | int] = (),
        on_progress: Progress = no_progress,
    ) -> Detector:
        """Make a Detector of option groups; on_progress is told of a model that is fetched."""
        detector = cls.__new__(cls)
        detector._open(
            options, thresholds, tracking, zones, classes=classes, on_progress=on_progress
        )
        return detector

    def _open(
        self,
        options: DetectorOptions,
        thresholds: ThresholdOptions,
        tracking: TrackingOptions,
        zones: Zones,
        *,
        classes: Sequence[str | int],
        on_progress: Progress = no_progress,
    ) -> None:
        make_tracker(tracking)  # a missing library is told before the model is loaded
        self._tracking, self._zones, self._zones_checked = tracking, zones, False
        self._lock = threading.Lock()
        self._detector = create_detector(options.located(on_progress))
        try:
            self._spec: ModelSpec = self._detector.spec
            self._thresholds = thresholds.of(self._spec)
            if thresholds.masks and self._spec.segmentation is None:
                raise ConfigurationError(
                    "masks of a model without a segmentation head",
                    expected="a model with a segmentation output beside those of the detections",
                    fix="ask for no masks, or give another model",
                )
            self._classes = None if not classes else _class_ids(classes, self._spec)
            if self._classes is not None:
                # Others would take the room of max_detections; a score of 1 is still to be dropped.
                others = set(range(self._spec.num_classes)) - set(self._classes.tolist())
                limits = {**self._thresholds.class_thresholds, **dict.fromkeys(others, 1.0)}
                self._thresholds = replace(self._thresholds, class_thresholds=limits)
            self._detector.warmup()
        except BaseException:
            self._detector.close()
            raise

    @property
    def device(self) -> str:
        return str(self._detector.device)

    @property
    def names(self) -> tuple[str, ...]:
        return self._spec.class_names

    @overload
    def __call__(
        self,
        source: Any,
        *,
        stream: Literal[True],
        rgb: bool = False,
        topics: Sequence[str] = (),
        recursive: bool = False,
    ) -> Iterator[Result]: ...
    @overload
    def __call__(
        self,
        source: Any,
        *,
        stream: bool = False,
        rgb: bool = False,
        topics: Sequence[str] = (),
        recursive: bool = False,
    ) -> Any: ...
    def __call__(
        self,
        source: Any,
        *,
        stream: bool = False,
        rgb: bool = False,
        topics: Sequence[str] = (),
        recursive: bool = False,
    ) -> Any:
        """Detect in a source.

        Args:
            source: a path, a pattern (`*.jpg`), a folder, a video, a bag, an address (http, rtsp,
                ...), a camera's number or device, an array (NumPy, torch, CuPy; uint8 (H, W, 3),
                (H, W, 4) or (H, W)), a PIL image, or a list of them.
            stream: whether to give the results one after the other, as the images come.
            rgb: whether an array's channels are red, green, blue, and not blue, green, red.
            topics: image topics of a bag; empty for all.
            recursive: whether a folder's own folders belong to it.

        Returns:
            A Result for one image, else a list of them; with `stream` an iterator.

        Raises:
            ConfigurationError: nothing there, nothing that can be opened, a camera or server that
                does not answer within 5 s, or a camera without `stream`.
            FrameError: an array of another shape or type, or one image that cannot be read.
            EngineError: the network failed.
        """
        sources = open_sources(source, rgb=rgb, topics=topics, recursive=recursive)
        given = source if isinstance(source, list | tuple) else [source]
        own = [each for each in sources if not any(each is one for one in given)]
        results = self._results(sources, own)
        if stream:
            return results
        if live := [each for each in sources if each.live]:
            for each in own:
                each.close()
            raise ConfigurationError(
                f"a list of the results of '{getattr(live[0], 'path', 'a camera')}', without end",
                expected="results one after the other",
                fix="iterate over detector(source, stream=True)",
            )
        found, held = [], 0
        for result in results:
            found.append(result)
            if not isinstance(result.source, Arrays):  # those are the caller's own
                held += np.prod(result.shape) * 3
                if held > LIMITS.held_bytes:
                    result.frame = None
        return found[0] if is_one_image(source, sources) else found

    def close(self) -> None:
        """Release engine and buffers; the Detector cannot be used afterwards."""
        with self._lock:
            self._detector.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _results(
        self, sources: Sequence[ImageSource], own: Sequence[ImageSource]
    ) -> Iterator[Result]:
        """Detect in one image after the other; close the sources that are its own at the end."""
        number = itertools.count(1)
        try:
            for source in sources:
                for frame, detections, speed in self._tracked(source):
                    self._check_zones(frame)
                    origin = source.origin(frame)
                    if len(sources) > 1:  # numbers of two sources would meet
                        origin.pop("image_id", None)
                    yield Result(
                        frame,
                        self._zones.select(detections),
                        self._spec,
                        source=source,
                        number=next(number),
                        origin=origin,
                        speed=speed,
                        zones=self._zones,
                    )
        finally:
            for source in own:
                source.close()

    def _check_zones(self, frame: Frame) -> None:
        """Warn, once, of a zone beside an image: its detections are all left out, or all kept."""
        if self._zones and not self._zones_checked:
            self._zones_checked = True
            try:
                self._zones.check_inside(frame.height, frame.width)
            except ConfigurationError as error:
                _LOGGER.warning("%s", error)

    def _tracked(self, source: ImageSource) -> Iterator[_Found]:
        """Give what is in each image of a source, each of its cameras tracked by itself."""
        trackers: dict[str, Tracker | None] = {}
        for number, (frame, detections, speed) in enumerate(self._untracked(source)):
            camera = source.camera_of(frame)
            if camera not in trackers:
                trackers[camera] = make_tracker(self._tracking, camera)
            if (tracker := trackers[camera]) is not None:
                stamp = frame.stamp_ns or int(number / source.rate * 1e9)
                detections = tracker.update(detections, stamp)
            yield frame, detections, speed

    def _untracked(self, source: ImageSource) -> Iterator[_Found]:
        frames = iter(source)
        size = 1 if source.live else self._detector.max_batch
        while batch := list(itertools.islice(frames, size)):
            found, speed = self._detect(batch)
            for frame, detections in zip(batch, found, strict=True):
                yield frame, detections, speed

    def _detect(self, frames: Sequence[Frame]) -> tuple[list[Detections], dict[str, float]]:
        """Return what is in each frame, and the milliseconds of each stage for one of them."""
        with self._lock:
            if not self._detector.reads_device_arrays:
                frames = [frame.on_host() for frame in frames]
            found = self._detector.detect(frames, [self._thresholds] * len(frames))
            seconds = asdict(self._detector.stage_times)
        if self._classes is not None:
            found = [each[np.isin(each.class_ids, self._classes)] for each in found]
        return found, {stage: 1e3 * time / len(frames) for stage, time in seconds.items()}


_CLASSES = Option(name="classes", kind=_THRESHOLDS["class_score"].kind, default=[], help="")


def _class_ids(classes: Sequence[str | int], spec: ModelSpec) -> Any:
    """Return the numbers of classes, int (N,).

    Raises:
        ConfigurationError: a class that the model does not have.
    """
    thresholds = dict.fromkeys(map(str, classes), 0.0)
    return np.array(
        [*PostprocessOptions().with_classes(thresholds, spec, _CLASSES).class_thresholds]
    )
