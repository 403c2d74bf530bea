# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Small random networks with the outputs of other detectors, and their boxes by plain NumPy.

    from support.detector_graphs import NETWORKS, export

    network = NETWORKS["yolov8"](num_classes=5)
    export(network, path, opset=17)                    # or dynamo=True
    boxes, scores = network.expected(image)            # (A, 4) corners in input pixels, (A, C)

Each head is written from its project's published description, and so is each NumPy decode, from
what the last convolutions give and not from what the exported graph makes of it:
    yolov5       https://github.com/ultralytics/yolov5/issues/6998: wh = (2 s(w))^2 * anchor,
                 xy = (2 s(x) - 0.5 + cell) * stride
    yolov8       https://docs.ultralytics.com/reference/utils/tal, dist2bbox, and DFL
                 (arXiv 2006.04388): distances to the sides are means of 16 softmax bins
    yolov10      arXiv 2405.14458: the same decoding; the best K of anchors x classes, no NMS
    rtdetr       arXiv 2304.08069: sigmoid centre, size; the best K of queries x classes
    efficientdet arXiv 1911.09070 and automl's anchors.py: box = anchor + offset, exp of sizes
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Array = npt.NDArray[np.float64]
#: Height and width of the inputs: small, and not square.
SIZE = (64, 96)


class Network(nn.Module):
    """A backbone of one convolution a level, and a head.

    Attributes:
        outputs: names of the graph's outputs.
        metadata: what its exporter writes into the file.
        size: (height, width) of its input.
    """

    strides: Sequence[int] = (8, 16, 32)
    outputs: Sequence[str] = ("output0",)
    size = SIZE

    def __init__(self, num_classes: int = 5, channels: int = 8, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.num_classes = num_classes
        self.backbone = nn.ModuleList(
            nn.Conv2d(3, channels, stride, stride) for stride in self.strides
        )
        self.metadata: dict[str, str] = {}

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [torch.relu(conv(image)) for conv in self.backbone]

    def grid(self, index: int) -> tuple[torch.Tensor, float]:
        """Return middles of the cells of a level (cells, 2) in cells, and its stride."""
        stride = self.strides[index]
        rows, columns = self.size[0] // stride, self.size[1] // stride
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        return torch.stack((x, y), -1).reshape(-1, 2).float(), float(stride)

    def raw(self, image: npt.NDArray[np.float32]) -> list[Array]:
        """Return what the last convolutions of each level give, (rows, columns, channels)."""
        with torch.no_grad():
            maps = self.head_maps(torch.from_numpy(image[None]))
        return [m[0].permute(1, 2, 0).double().numpy() for m in maps]

    def head_maps(self, image: torch.Tensor) -> list[torch.Tensor]:
        raise NotImplementedError

    def expected(self, image: npt.NDArray[np.float32]) -> tuple[Array, Array]:
        """Return corners (A, 4) in input pixels and scores (A, C), by plain NumPy."""
        raise NotImplementedError


def sigmoid(values: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-values)))


def corners(centre: Array, sides: Array) -> Array:
    return np.concatenate([centre - sides / 2, centre + sides / 2], -1)


class YoloV5(Network):
    """Three anchors a cell, objectness, decoded in the graph: (N, A, 5 + C)."""

    outputs = ("output0",)
    anchors = (
        ((10, 13), (16, 30), (33, 23)),
        ((30, 61), (62, 45), (59, 119)),
        ((116, 90), (156, 198), (373, 326)),
    )

    def __init__(self, num_classes: int = 5, **options: Any) -> None:
        super().__init__(num_classes, **options)
        self.heads = nn.ModuleList(
            nn.Conv2d(conv.out_channels, 3 * (5 + num_classes), 1) for conv in self.backbone
        )

    def head_maps(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [head(f) for head, f in zip(self.heads, self.features(image), strict=True)]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        whole = []
        for index, values in enumerate(self.head_maps(image)):
            n, _, rows, columns = values.shape
            values = values.view(n, 3, 5 + self.num_classes, rows, columns)
            values = values.permute(0, 1, 3, 4, 2).sigmoid()
            cells, stride = self.grid(index)
            cells = cells.view(1, 1, rows, columns, 2)
            sizes = torch.tensor(self.anchors[index]).view(1, 3, 1, 1, 2)
            xy = (values[..., :2] * 2 - 0.5 + cells) * stride
            wh = (values[..., 2:4] * 2) ** 2 * sizes
            decoded = torch.cat((xy, wh, values[..., 4:]), 4)
            whole.append(decoded.view(n, 3 * rows * columns, 5 + self.num_classes))
        return torch.cat(whole, 1)

    def expected(self, image: npt.NDArray[np.float32]) -> tuple[Array, Array]:
        boxes, scores = [], []
        for values, stride, anchors in zip(
            self.raw(image), self.strides, self.anchors, strict=True
        ):
            rows, columns, _ = values.shape
            for number, anchor in enumerate(anchors):
                own = np.split(values, 3, axis=-1)[number]
                for row in range(rows):
                    for column in range(columns):
                        p = sigmoid(own[row, column])
                        centre = (2 * p[:2] - 0.5 + (column, row)) * stride
                        boxes.append(corners(centre, (2 * p[2:4]) ** 2 * anchor))
                        scores.append(p[4] * p[5:])
        return np.array(boxes), np.array(scores)


class YoloV8(Network):
    """One box a cell from 16 bins a side, no objectness: (N, 4 + C, A), and masks beside it."""

    bins = 16

    def __init__(
        self, num_classes: int = 5, beside: int = 0, prototypes: bool = False, **options: Any
    ) -> None:
        super().__init__(num_classes, **options)
        channels = [conv.out_channels for conv in self.backbone]
        self.boxes = nn.ModuleList(nn.Conv2d(c, 4 * self.bins, 1) for c in channels)
        self.classes = nn.ModuleList(nn.Conv2d(c, num_classes, 1) for c in channels)
        self.extra = nn.ModuleList(nn.Conv2d(c, beside, 1) for c in channels if beside)
        self.prototypes = nn.Conv2d(3, beside, 4, 4) if prototypes else None
        if prototypes:
            self.outputs = ("output0", "output1")
        names = {i: f"class {i}" for i in range(num_classes)}
        self.metadata = {"task": "detect", "names": str(names), "stride": "32"}

    def head_maps(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [
            torch.cat((box(f), cls(f)), 1)
            for box, cls, f in zip(self.boxes, self.classes, self.features(image), strict=True)
        ]

    def decoded(self, image: torch.Tensor) -> torch.Tensor:
        maps = self.head_maps(image)
        n = image.shape[0]
        flat = torch.cat([m.view(n, 4 * self.bins + self.num_classes, -1) for m in maps], 2)
        box, classes = flat.split((4 * self.bins, self.num_classes), 1)
        steps = torch.arange(self.bins, dtype=torch.float32).view(1, self.bins, 1, 1)
        sides = box.view(n, 4, self.bins, -1).transpose(1, 2).softmax(1)
        sides = (sides * steps).sum(1)
        grids = [self.grid(i) for i in range(len(self.strides))]
        points = torch.cat([cells + 0.5 for cells, _ in grids]).T[None]
        strides = torch.cat([torch.full((1, len(c)), s) for c, s in grids], 1)
        low, high = points - sides[:, :2], points + sides[:, 2:]
        return torch.cat((self.box_of(low, high) * strides, classes.sigmoid()), 1)

    def box_of(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return torch.cat(((low + high) / 2, high - low), 1)

    def forward(self, image: torch.Tensor) -> Any:
        found = self.decoded(image)
        if len(self.extra):
            n, features = image.shape[0], self.features(image)
            beside = [e(f).view(n, -1, f.shape[2] * f.shape[3]) for e, f in zip(
                self.extra, features, strict=True
            )]  # fmt: skip
            found = torch.cat((found, torch.cat(beside, 2)), 1)
        return found if self.prototypes is None else (found, self.prototypes(image))

    def expected(self, image: npt.NDArray[np.float32]) -> tuple[Array, Array]:
        boxes, scores = [], []
        for values, stride in zip(self.raw(image), self.strides, strict=True):
            for (row, column), v in zip(
                np.ndindex(values.shape[:2]), values.reshape(-1, values.shape[2]), strict=True
            ):
                sides = []
                for bins in v[: 4 * self.bins].reshape(4, self.bins):
                    weights = np.exp(bins - bins.max())
                    sides.append((weights * np.arange(self.bins)).sum() / weights.sum())
                left, top, right, bottom = sides
                x, y = column + 0.5, row + 0.5
                boxes.append(np.array([x - left, y - top, x + right, y + bottom]) * stride)
                scores.append(sigmoid(v[4 * self.bins :]))
        return np.array(boxes), np.array(scores)


class YoloV8Rows(YoloV8):
    """The same, transposed: (N, A, 4 + C)."""

    def forward(self, image: torch.Tensor) -> Any:
        return super().forward(image).transpose(1, 2)


class YoloV6(YoloV8):
    """Rows with an objectness of 1: (N, A, 5 + C)."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.metadata = {}

    def forward(self, image: torch.Tensor) -> Any:
        found = self.decoded(image).transpose(1, 2)
        boxes, classes = found.split((4, self.num_classes), 2)
        return torch.cat((boxes, torch.ones_like(boxes[..., :1]), classes), 2)


class BoxesScores(YoloV8):
    """Corners (N, A, 4) and scores (N, A, C) of no known detector: its metadata say the format."""

    outputs = ("boxes", "scores")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.metadata = {"yolox_trt.box_format": "xyxy"}

    def box_of(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return torch.cat((low, high), 1)

    def forward(self, image: torch.Tensor) -> Any:
        return self.decoded(image).transpose(1, 2).split((4, self.num_classes), 2)


class YoloV10(YoloV8):
    """The best K of anchors x classes, as corners, score, class: (N, K, 6)."""

    kept = 20

    def box_of(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return torch.cat((low, high), 1)

    def forward(self, image: torch.Tensor) -> Any:
        boxes, classes = self.decoded(image).transpose(1, 2).split((4, self.num_classes), 2)
        best = classes.amax(2).topk(self.kept)[1][..., None]
        boxes = boxes.gather(1, best.repeat(1, 1, 4))
        classes = classes.gather(1, best.repeat(1, 1, self.num_classes))
        scores, index = classes.flatten(1).topk(self.kept)
        boxes = boxes.gather(1, (index // self.num_classes)[..., None].repeat(1, 1, 4))
        ids = (index % self.num_classes)[..., None].float()
        return torch.cat((boxes, scores[..., None], ids), 2)


class RtDetr(Network):
    """Queries, and the best K of queries x classes: labels, boxes, scores.

    Args:
        form: "sizes": with the input orig_target_sizes; "queries": boxes and scores joined, as
            Ultralytics exports them; "logits": logits and boxes, as Transformers does.
    """

    queries, kept = 25, 12

    def __init__(self, num_classes: int = 5, form: str = "sizes", **options: Any) -> None:
        super().__init__(num_classes, **options)
        channels = self.backbone[0].out_channels
        self.form = form
        self.norm = nn.LayerNorm(channels)
        self.choice = nn.Linear(channels, num_classes)
        self.box = nn.Linear(channels, 4)
        self.cls = nn.Linear(channels, num_classes)
        self.outputs = {
            "sizes": ("labels", "boxes", "scores"),
            "queries": ("output0",),
            "logits": ("logits", "pred_boxes"),
        }[form]

    def decoder(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = torch.cat([f.flatten(2).transpose(1, 2) for f in self.features(image)], 1)
        tokens = self.norm(tokens)
        best = self.choice(tokens).amax(2).topk(self.queries)[1]
        chosen = tokens.gather(1, best[..., None].repeat(1, 1, tokens.shape[2]))
        return self.box(chosen).sigmoid(), self.cls(chosen)

    def forward(self, image: torch.Tensor, sizes: torch.Tensor | None = None) -> Any:
        boxes, logits = self.decoder(image)
        if self.form == "queries":
            return torch.cat((boxes, logits.sigmoid()), 2)
        if self.form == "logits":
            return logits, boxes
        centre, sides = boxes.split(2, 2)
        boxes = torch.cat((centre - sides / 2, centre + sides / 2), 2)
        if sizes is not None:
            boxes = boxes * sizes.repeat(1, 2).unsqueeze(1)
        scores, index = logits.sigmoid().flatten(1).topk(self.kept)
        labels = index - index // self.num_classes * self.num_classes
        rows = (index // self.num_classes)[..., None].repeat(1, 1, 4)
        return labels, boxes.gather(1, rows), scores

    def expected(self, image: npt.NDArray[np.float32]) -> tuple[Array, Array]:
        with torch.no_grad():
            found = self.decoder(torch.from_numpy(image[None]))
        boxes, logits = (values[0].double().numpy() for values in found)
        whole = boxes * np.array([self.size[1], self.size[0]] * 2)
        return corners(whole[:, :2], whole[:, 2:]), sigmoid(logits)


class EfficientDet(Network):
    """Nine anchors a cell, offsets not decoded: classes (N, A, C) and boxes (N, A, 4)."""

    strides = (8, 16, 32, 64, 128)
    outputs = ("regression", "classification")
    size = (128, 128)

    def __init__(self, num_classes: int = 5, **options: Any) -> None:
        super().__init__(num_classes, **options)
        channels = self.backbone[0].out_channels
        self.regressor = nn.Conv2d(channels, 9 * 4, 1)
        self.classifier = nn.Conv2d(channels, 9 * num_classes, 1)
        with torch.no_grad():
            self.classifier.bias -= 2.5  # most anchors are background

    def head_maps(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [
            torch.cat((0.1 * self.regressor(f), self.classifier(f)), 1)
            for f in self.features(image)
        ]

    def forward(self, image: torch.Tensor) -> Any:
        def rows(values: torch.Tensor, width: int) -> torch.Tensor:
            return values.permute(0, 2, 3, 1).reshape(values.shape[0], -1, width)

        features = self.features(image)
        boxes = torch.cat([rows(0.1 * self.regressor(f), 4) for f in features], 1)
        classes = torch.cat([rows(self.classifier(f), self.num_classes) for f in features], 1)
        return boxes, classes.sigmoid()

    def expected(self, image: npt.NDArray[np.float32]) -> tuple[Array, Array]:
        boxes, scores = [], []
        for values, stride in zip(self.raw(image), self.strides, strict=True):
            for row, column in np.ndindex(values.shape[:2]):
                v = values[row, column]
                number = 0
                for octave in range(3):
                    for wide, high in ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4)):
                        side = 4 * stride * 2 ** (octave / 3)
                        w, h = side * wide, side * high
                        x, y = (column + 0.5) * stride, (row + 0.5) * stride
                        dy, dx, dh, dw = v[4 * number : 4 * number + 4]
                        centre = np.array([dx * w + x, dy * h + y])
                        boxes.append(corners(centre, np.exp([dw, dh]) * [w, h]))
                        first = 36 + number * self.num_classes
                        scores.append(sigmoid(v[first : first + self.num_classes]))
                        number += 1
        return np.array(boxes), np.array(scores)


#: name -> (network, model type, NMS is needed).
NETWORKS: dict[str, tuple[Any, str, bool]] = {
    "yolov5": (YoloV5, "yolov5", True),
    "yolov6": (YoloV6, "yolov8", True),
    "yolov8": (YoloV8, "yolov8", True),
    "yolov8 rows": (YoloV8Rows, "yolov8", True),
    "yolov10": (YoloV10, "yolov10", False),
    "rtdetr": (RtDetr, "rtdetr", False),
    "rtdetr queries": (lambda **o: RtDetr(form="queries", **o), "rtdetr", False),
    "rtdetr logits": (lambda **o: RtDetr(form="logits", **o), "rtdetr", False),
    "efficientdet": (EfficientDet, "efficientdet", True),
    "boxes scores": (BoxesScores, "boxes_scores", True),
}


def export(
    network: Network,
    path: Path,
    *,
    opset: int = 17,
    dynamo: bool = False,
    batch: int | None = 1,
    with_sizes: bool | None = None,
) -> Path:
    """Export a network; a batch of None leaves it open."""
    import onnx

    inputs: list[torch.Tensor] = [torch.zeros(batch or 2, 3, *network.size)]
    names = ["images"]
    if with_sizes if with_sizes is not None else getattr(network, "form", "") == "sizes":
        inputs.append(torch.tensor([[network.size[1], network.size[0]]] * (batch or 2)))
        names.append("orig_target_sizes")
    options: dict[str, Any] = {}
    if batch is None and dynamo:
        options["dynamic_shapes"] = [{0: torch.export.Dim("batch")}] * len(inputs)
    elif batch is None:
        options["dynamic_axes"] = {n: {0: "batch"} for n in (*names, *network.outputs)}
    torch.onnx.export(
        network.eval(),
        tuple(inputs),
        str(path),
        input_names=names,
        output_names=list(network.outputs),
        opset_version=opset,
        dynamo=dynamo,
        **options,
    )
    if network.metadata:
        model = onnx.load(str(path))
        onnx.helper.set_model_props(model, network.metadata)
        onnx.save(model, str(path))
    return path
