# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt detect`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.cli.command import Command
from yolox_trt.cli.output import Output
from yolox_trt.cli.streams import reader_gone
from yolox_trt.core.option import Kind, again, nested, option, options_of, path_option
from yolox_trt.core.output_paths import OutputFile, parse_output_folder
from yolox_trt.core.postprocess_options import ThresholdOptions
from yolox_trt.core.zones import Zones
from yolox_trt.detectors.options import SIMULATION
from yolox_trt.evaluation.options import NamedModelOptions
from yolox_trt.tracking.options import TrackingOptions

if TYPE_CHECKING:
    from yolox_trt.api.result import Result
    from yolox_trt.api.writers import Writer
    from yolox_trt.core.images import ImageSource


@dataclass(frozen=True, kw_only=True)
class _ModelOptions(NamedModelOptions):
    model: Any = again(
        options_of(NamedModelOptions)["model"],
        metavar="MODEL",
        help="ONNX file, built engine, or a name of `yolox_trt models list`, which is fetched once "
        "(default: the shipped model).",
    )


@dataclass(frozen=True, kw_only=True)
class Detect(Command, name="detect", has_json=True):
    """Detect in images, videos, cameras and bags, without ROS.

    Images and videos come out with boxes drawn in, a rosbag2 bag as a new mcap bag with the
    detections beside the images. --json writes COCO results. A camera runs until Ctrl-C. The exit
    status is 1 where some of the images could not be read.

    Examples:
        yolox_trt detect photographs/ -o boxes/ --json boxes.json
        yolox_trt detect front.jpg https://example.com/rear.jpg --classes person --classes car
        yolox_trt detect rtsp://192.168.0.10/stream --no-images --csv seen.csv
        yolox_trt detect drive/ --model segmenting.onnx --masks -o out/
        yolox_trt detect drive.mcap --topic /front/image_raw --model yolox-s --device gpu
    """

    sources: Sequence[str] = option(
        kind=Kind.STRING_ARRAY,
        flag="SOURCE",
        help="Image, folder, pattern, video, rosbag2 bag, http or rtsp address, or a camera: its "
        "number or device.",
    )
    recursive: bool = option(
        False,
        flag="--recursive -r",
        help="Take folders in folders, too, but for that of the results.",
    )
    topic: Sequence[str] = option(
        [], kind=Kind.STRING_ARRAY, help="Image topic of a bag (default: all)."
    )
    output: Path | None = path_option(
        parse=parse_output_folder,
        flag="--output -o",
        metavar="PATH",
        help="Folder of the results (default: detections), or the new bag (default: "
        "SOURCE_detections).",
    )
    no_images: bool = option(False, help="Write no annotated images, no video and no new bag.")
    classes: Sequence[str] = option(
        [], kind=Kind.STRING_ARRAY, metavar="CLASS", help="Only this class, by its name or number."
    )
    masks: bool = option(
        False,
        help="Find the class of each pixel, too, by a model with a segmentation head: drawn over "
        "the images, and written to masks/ as PNG files of class numbers.",
    )
    save_crops: bool = option(False, help="Write each detection's part of the image to crops/.")
    save_txt: bool = option(False, help="Write YOLO labels to labels/.")
    csv: Path | None = path_option(parse=OutputFile(".csv"), help="Write a table of detections.")
    rerun: Path | None = path_option(
        parse=OutputFile(".rrd"), help="Write a recording for the viewer Rerun."
    )
    show: bool = option(False, help="Show the images in a window; q ends.")
    track: bool = option(
        False, help="Give detections ids that they keep from image to image, by ByteTrack."
    )
    tracking: TrackingOptions = nested(TrackingOptions, without=("tracking",))
    zones: Zones = nested(Zones)
    detector: _ModelOptions = nested(_ModelOptions, without=SIMULATION)
    thresholds: ThresholdOptions = nested(ThresholdOptions)

    @property
    def _folder(self) -> Path:
        return self.output or Path("detections")

    @property
    def _fills_folder(self) -> bool:
        return not self.no_images or self.masks or self.save_crops or self.save_txt

    def run(self, output: Output) -> int:
        from yolox_trt.api.detector import Detector
        from yolox_trt.api.sources import open_sources

        # A wrong source is told before the model is loaded.
        sources = open_sources(
            list(self.sources),
            topics=self.topic,
            recursive=self.recursive,
            without=self._folder if self._fills_folder else None,
        )
        with contextlib.ExitStack() as stack:
            for source in sources:
                stack.callback(source.close)
            with output.progress() as progress:
                detector = stack.enter_context(
                    Detector.of(
                        self.detector,
                        replace(self.thresholds, masks=self.masks),
                        replace(self.tracking, tracking="bytetrack" if self.track else "none"),
                        self.zones,
                        classes=self.classes,
                        on_progress=progress,
                    )
                )
            writers = self._make_writers(sources, detector.names)
            for writer in writers:
                stack.enter_context(writer)
            lengths = [len(source) for source in sources]
            total = sum(lengths) if all(lengths) else 0
            documents: list[dict[str, Any]] = []
            images = detections = 0
            # Ctrl-C is how a camera's and a window's run ends.
            endless = any(source.live for source in sources)
            with contextlib.suppress(*[KeyboardInterrupt] * (self.show or endless)):
                for result in detector(sources, stream=True):
                    images = result.number
                    for writer in writers:
                        writer.write(result)
                    detections += len(result)
                    if output.wants_json:  # a camera would fill the memory
                        documents += result.to_coco()
                    output.print(_line(result, total))
                    if endless and not self.show and reader_gone():
                        break  # it would run unseen for ever
        refused = sum(source.refused for source in sources)
        skipped = sum(source.skipped for source in sources)
        output.print(
            f"{_count(images, 'image')}, {_count(detections, 'detection')}"
            + (f", {_count(refused, 'image')} could not be read" if refused else "")
            + (f", {_count(skipped, 'image')} of a camera left out" if skipped else "")
        )
        paths = [path for writer in writers for path in writer.paths]
        if written := [f"{path}/" if path.is_dir() else str(path) for path in paths]:
            output.print(f"Wrote {', '.join(written)}")
        output.json(documents)
        return 1 if refused else 0

    def _make_writers(
        self, sources: Sequence[ImageSource], class_names: Sequence[str]
    ) -> list[Writer]:
        from yolox_trt.api import writers
        from yolox_trt.core.images import ImageFiles, Video

        folder, names = self._folder, writers.FileNames(sources)
        made: list[Writer] = []
        if not self.no_images:
            drawn = [each for each in sources if isinstance(each, ImageFiles | Video)]
            if drawn:
                made.append(writers.AnnotatedWriter(folder, drawn, names))
            if len(drawn) < len(sources):
                only = self.output if len(sources) == 1 else None
                made.append(
                    writers.BagWriter(
                        lambda bag: only or bag.with_name(f"{bag.stem}_detections"),
                        class_names,
                        sources,
                    )
                )
        if self.masks:
            made.append(writers.MaskWriter(folder / "masks", sources, names))
        if self.save_crops:
            made.append(writers.CropWriter(folder / "crops", names))
        if self.save_txt:
            made.append(writers.LabelWriter(folder / "labels", names))
        if self.csv is not None:
            made.append(writers.CsvWriter(self.csv))
        if self.rerun is not None:
            made.append(writers.RerunWriter(self.rerun))
        if self.show:
            made.append(writers.Window())
        return made


def _line(result: Result, total: int) -> str:
    """Return what is printed of one image: its place, name, detections by class, and time."""
    place = f"{result.number}/{total} " if total > 1 else "" if total else f"{result.number} "
    return f"{place}{result.path}: {result.summary}, {sum(result.speed.values()):.0f} ms"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
