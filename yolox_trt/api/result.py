# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Result: what was found in one image, as arrays, one by one, as a picture, and for other tools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.files import write_atomically
from yolox_trt.core.frame import Frame
from yolox_trt.core.images import ImageSource
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.optional import require
from yolox_trt.core.output_paths import prepare_outputs
from yolox_trt.core.zones import Zones
from yolox_trt.evaluation.coco_metrics import coco_categories, coco_results
from yolox_trt.kernels.draw import draw_detections, draw_mask, draw_zones
from yolox_trt.kernels.reference.preprocess import to_bgr


@dataclass(frozen=True)
class Box:
    """One detection.

    Attributes:
        name: its class.
        score: 0 to 1.
        xyxy: left, top, right and bottom edge, in pixels of the image.
        class_id: number of its class.
        id: number of its track, from 1 on; None where it has none.
    """

    name: str
    score: float
    xyxy: tuple[float, float, float, float]
    class_id: int
    id: int | None = None


class Result:
    """What was found in one image; iterating over it gives a Box each, the best score first.

    Args:
        frame: the image; None where it was let go.
        detections: what was found.
        spec: has the classes.
        source: where the image is from.
        number: its place among all images of the call, from 1 on.
        origin: file_name or topic and stamp_ns, and image_id, as far as they are known.
        speed: milliseconds of each stage.
        zones: where detections count; plot() draws them.

    Attributes:
        detections: core.detections.Detections.
        source: the ImageSource.
        number: as above.
        origin: as above.
        path: the image's file, address, camera or topic.
        shape: its height and width.
        speed: milliseconds of `preprocess`, `inference` and `postprocess`.
    """

    def __init__(
        self,
        frame: Frame,
        detections: Detections,
        spec: ModelSpec,
        *,
        source: ImageSource,
        number: int,
        origin: Mapping[str, Any],
        speed: Mapping[str, float],
        zones: Zones,
    ) -> None:
        self.detections = detections
        self.source = source
        self.number = number
        self.origin = dict(origin)
        self.path = frame.stream_id
        self.shape = (frame.height, frame.width)
        self.speed = dict(speed)
        self.frame: Frame | None = frame
        self._spec = spec
        self._zones = zones

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """float32 (N, 4): x1 y1 x2 y2 in pixels of the image."""
        return self.detections.boxes

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """float32 (N,), 0 to 1, descending."""
        return self.detections.scores

    @property
    def class_ids(self) -> npt.NDArray[np.int32]:
        """int32 (N,)."""
        return self.detections.class_ids

    @property
    def names(self) -> list[str]:
        """Name of each detection's class."""
        return [self._spec.class_name(class_id) for class_id in self.class_ids.tolist()]

    @property
    def ids(self) -> npt.NDArray[np.int32] | None:
        """int32 (N,), the tracks, 0 for none yet; None where nothing is tracked."""
        return self.detections.track_ids

    @property
    def mask(self) -> npt.NDArray[np.uint8] | None:
        """uint8 (H, W), the class of each pixel (255: not seen); None where none was asked for."""
        return None if self.detections.mask is None else self.detections.mask.decode()

    @property
    def image(self) -> npt.NDArray[np.uint8]:
        """uint8 (H, W, 3), blue green red; not to be written.

        Raises:
            ConfigurationError: a list of results has let it go.
        """
        if self.frame is None:
            raise ConfigurationError(
                f"image {self.number} of {self.path}, which a list of results no longer holds",
                expected="results one after the other",
                fix="iterate over detector(source, stream=True)",
            )
        frame = self.frame.on_host()
        return frame.rows if frame.encoding == "bgr8" else to_bgr(frame)

    def __len__(self) -> int:
        return len(self.detections)

    def __iter__(self) -> Iterator[Box]:
        ids = [None] * len(self) if self.ids is None else [i or None for i in self.ids.tolist()]
        boxes = [tuple(box) for box in self.boxes.tolist()]
        columns = (self.names, self.scores.tolist(), boxes, self.class_ids.tolist(), ids)
        return (Box(*values) for values in zip(*columns, strict=True))

    def __getitem__(self, index: int) -> Box:
        return list(self)[index]

    @property
    def summary(self) -> str:
        """Detections by class, such as "2 persons, 1 dog" or "nothing"."""
        counts = Counter(self.names).most_common()
        return ", ".join(f"{count} {name}" for name, count in counts) or "nothing"

    def __repr__(self) -> str:
        return f"<Result {self.path or f'image {self.number}'}: {self.summary}>"

    def plot(self) -> npt.NDArray[np.uint8]:
        """Return a copy of the image with mask, zones and boxes drawn in, uint8 (H, W, 3), BGR."""
        picture = np.array(self.image)
        if self.mask is not None:
            draw_mask(picture, self.mask)
        draw_zones(picture, self._zones)
        return draw_detections(picture, self.detections, self._spec.class_names)

    def save(self, path: str | Path) -> Path:
        """Write plot() to a file; return its path.

        Raises:
            ConfigurationError: it cannot be written.
        """
        return write_image(Path(path), self.plot())

    def crop(self) -> list[npt.NDArray[np.uint8]]:
        """Return each detection's part of the image, uint8 (h, w, 3), at least one pixel."""
        image = self.image
        low = (
            np.floor(self.boxes[:, :2])
            .astype(int)
            .clip(0, (image.shape[1] - 1, image.shape[0] - 1))
        )
        high = np.maximum(np.ceil(self.boxes[:, 2:]).astype(int), low + 1)
        return [image[y1:y2, x1:x2] for (x1, y1), (x2, y2) in zip(low, high, strict=True)]

    def to_coco(self) -> list[dict[str, Any]]:
        """Return COCO results: image_id, category_id, category_name, bbox and score.

        `bbox` is x, y, width and height in pixels. `category_id` is COCO's for COCO's 80 classes,
        else the class id. What is known of the image (file_name, or topic and stamp_ns) and of the
        track (track_id) stands beside them.
        """
        origin = {"image_id": self.number, **self.origin}
        results = coco_results(origin["image_id"], self.detections, coco_categories(self._spec))
        for result, box in zip(results, self, strict=True):
            result.update(origin, category_name=box.name)
            if self.ids is not None:
                result["track_id"] = box.id
        return results

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame with name, score, x1, y1, x2, y2, class_id and id.

        Raises:
            MissingDependencyError: pandas is missing.
        """
        rows = [(box.name, box.score, *box.xyxy, box.class_id, box.id) for box in self]
        columns = ["name", "score", "x1", "y1", "x2", "y2", "class_id", "id"]
        return require("pandas", purpose="to_pandas()").DataFrame(rows, columns=columns)

    def to_supervision(self) -> Any:
        """Return supervision.Detections, with the class names in data["class_name"].

        Raises:
            MissingDependencyError: supervision is missing.
        """
        return require("supervision", purpose="to_supervision()").Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.class_ids,
            tracker_id=self.ids,
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def _repr_jpeg_(self) -> bytes:
        """Return plot() as a JPEG: what Jupyter shows."""
        return bytes(cv2.imencode(".jpg", self.plot())[1])


def write_image(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    """Write an image file, its folder too, and return its path.

    Raises:
        ConfigurationError: the folder or the format cannot be written.
    """
    prepare_outputs(path)
    with ConfigurationError.instead_of(
        (cv2.error, OSError),
        f"'{path}' that cannot be written",
        expected="a folder with write permission, and an OpenCV that writes this format",
        fix="give another path",
    ):
        encoded, data = cv2.imencode(path.suffix, pixels)
        if not encoded:
            raise OSError("OpenCV encodes nothing")
        write_atomically(path, data.tobytes())
    return path
