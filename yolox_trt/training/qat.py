# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Quantisation-aware training: a float detector teaches its own INT8 form.

The INT8 form is what `quantize` makes of the model, calibrated, with Q/DQ where TensorRT quantises
or at every tensor. Weights and activation scales learn to answer as the float network does, and
boxes where there are labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolox_trt.compiler.int8.images import CalibrationInputs
from yolox_trt.compiler.int8.infer_ranges import dla_groups
from yolox_trt.compiler.int8.layers import KERNEL_ACTIVATIONS
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.int8.quantizer import QuantizedModel, quantize
from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.compiler.surgery.pipeline import optimize
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.core.files import whole_or_none
from yolox_trt.core.model_spec import ModelSpec, Preprocessing
from yolox_trt.core.option import options_of
from yolox_trt.core.optional import require
from yolox_trt.core.output_paths import prepare_folder
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.image_input import read_image_input
from yolox_trt.graph.spec import read_spec
from yolox_trt.graph.values import Node
from yolox_trt.training.augment import Augmenter
from yolox_trt.training.captured_step import CapturedStep
from yolox_trt.training.coco_labels import CocoLabels
from yolox_trt.training.detection_loss import detection_loss
from yolox_trt.training.distill_losses import FeatureLoss, HeldOut, output_loss, teacher_score
from yolox_trt.training.graph_network import GraphNetwork
from yolox_trt.training.image_store import ImageStore, list_images
from yolox_trt.training.labelled_augment import LabelledAugmenter
from yolox_trt.training.options import QatJob, QatOptions
from yolox_trt.training.ranks import ALONE, Ranks, joined
from yolox_trt.training.run import Log, Trainer, read_training, run_training
from yolox_trt.training.schedule import WeightAverage, set_rate
from yolox_trt.training.torch_device import check_step
from yolox_trt.training.yolox import flatten_outputs


def tap_tensors(graph: Graph) -> list[str]:
    """Return the convolutions' results at the ends of blocks, where features are compared.

    Those are the ones whose activation goes to several layers, to a sum or to a concatenation.
    """
    taps = []
    for conv in graph.find("Conv"):
        readers = _behind_activation(conv)
        if len(readers) > 1 or any(node.op in ("Add", "Concat") for node in readers):
            taps.append(conv.outputs[0].name)
    return taps


def _behind_activation(conv: Node) -> list[Node]:
    """Return what reads a convolution's result, or its activation's."""
    readers = conv.outputs[0].readers
    # The other reader is the sigmoid, or the Mul that equalisation puts before it.
    gated = [n for n in readers if n.op == "Mul" and "Sigmoid" in {s.op for s in n.sources}]
    if len(gated) == 1 and len(readers) == 2:
        return gated[0].outputs[0].readers
    if len(readers) == 1 and readers[0].op in KERNEL_ACTIVATIONS:
        return readers[0].outputs[0].readers
    return readers


class QatTrainer(Trainer):
    """The float network, its INT8 form, optimiser and data of one run.

    Args:
        model: what `quantize` made.
        train: images without labels.
        labelled: images with labels, and the labels; None without any.
        held_out: images that are measured, None without any.
        options: how to train.
        placement: "all" or "conv_inputs", as the model was quantised.
        device: where.
        ranks: this process among those of the run.
    """

    def __init__(
        self,
        model: QuantizedModel,
        train: ImageStore,
        labelled: tuple[ImageStore, CocoLabels] | None,
        held_out: ImageStore | None,
        options: QatOptions,
        *,
        device: torch.device | str = "cpu",
        ranks: Ranks = ALONE,
    ) -> None:
        torch.manual_seed(options.seed)
        self.options: QatOptions = options
        self.ranks = ranks
        self.batch = ranks.batch(options.batch)
        self.device = torch.device(device)
        self.model = model
        self.cuda = self.device.type == "cuda"
        self.spec: ModelSpec = read_spec(model.base)
        self.views = Augmenter(train, options.size, options.augment)
        self._labelled_views = None
        if labelled is not None:
            self._labelled_views = LabelledAugmenter(
                labelled[0], options.size, options.augment, labelled[1]
            )
        shared: list[set[str]] = []
        if options.shared_scales:
            # Where every tensor has a scale, none is inferred from a sum's.
            shared = dla_groups(model.base, sums=not model.every_tensor)
        self._layout: dict[str, Any] = {"memory_format": torch.channels_last} if self.cuda else {}
        self._half = torch.float16 if self.cuda else torch.float32
        # Its weights stay float32: in units of their own size, float16 would round them twice.
        teacher = GraphNetwork(model.base).to(self.device, **self._layout)
        self.teacher = teacher.eval().requires_grad_(False)
        multiplier, offset = self.spec.preprocessing.factors
        self._factors = [
            torch.tensor(values, device=self.device)[:, None, None]
            for values in (multiplier, offset)
        ]
        self.student = GraphNetwork(model.base, model.graph, model.ranges, shared)
        self.student.to(self.device, **self._layout).train()
        self.average = WeightAverage(self.student, options.average)
        names = tap_tensors(model.base) if options.feature_weight else []
        self._taps = names
        for network in (self.teacher, self.student):
            network.watch(names)
        with torch.no_grad():
            features = self.teach(self.views.batch(min(16, self.batch)))[1]
        self.feature_loss = FeatureLoss([f.shape[1] for f in features]).to(self.device)
        self.feature_loss.measure(features)
        self.parameters = [*self.student.parameters(), *self.feature_loss.parameters()]
        rate = options.learning_rate
        self.optimiser = torch.optim.AdamW(
            self.parameters,
            # A tensor, so that a captured step follows the schedule.
            lr=torch.tensor(rate, device=self.device) if self.cuda else rate,
            weight_decay=options.weight_decay,
            fused=self.cuda,
            capturable=self.cuda,
        )
        self._weights = torch.tensor(
            [1.0, 1.0, options.box_weight, options.feature_weight, options.label_weight],
            device=self.device,
        )
        self.state = {
            "student": self.student,
            "average": self.average,
            "optimiser": self.optimiser,
            "feature_loss": self.feature_loss,
        }
        self._captured: CapturedStep | None = None
        self.held_out = None
        if held_out is not None:
            self.held_out = HeldOut(held_out, options.size, lambda x: self.teach(x)[0])

    def _prepared(self, images: Tensor) -> Tensor:
        """BGR 0..255 as the network expects it."""
        expected = self.spec.preprocessing
        x = images if expected.color_order == "bgr" else images.flip(1)
        if not expected.is_identity:
            x = x * self._factors[0] + self._factors[1]
        return x.contiguous(**self._layout)

    @torch.no_grad()
    def teach(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The float network's outputs (N, A, 5 + C) and tapped features."""
        outputs = self.teacher(self._prepared(images).to(self._half))
        return _flat(outputs).float(), [self.teacher.seen[name] for name in self._taps]

    def _losses(self, images: Tensor, boxes: list[Tensor], classes: list[Tensor]) -> Tensor:
        """Objectness, class, box, feature and label loss as one vector (5,)."""
        target, features = self.teach(images)
        outputs = self.student(self._prepared(images))
        total = self.ranks.normaliser(teacher_score(target))
        parts = output_loss(_flat(outputs), target, total)
        mine = [self.student.seen[name] for name in self._taps]
        zero = parts[0].new_zeros(())
        labels = zero
        if boxes:
            levels = [tuple(t[-len(boxes) :] for t in level) for level in _levels(outputs)]
            labels = detection_loss(levels, boxes, classes, self.options.size, ranks=self.ranks)[
                "total"
            ]
        return torch.stack((*parts, zero + self.feature_loss(mine, features), labels))

    def _optimise(
        self, images: Tensor, boxes: list[Tensor] | None = None, classes: Any = None
    ) -> Tensor:
        parts = self._losses(images, boxes or [], classes or [])
        self.optimiser.zero_grad(set_to_none=True)
        (parts * self._weights).sum().backward()
        parts = parts.detach()
        self._average(self.parameters, None, parts)
        nn.utils.clip_grad_norm_(self.parameters, self.options.clip, foreach=True)
        self.optimiser.step()
        self.average.update_parameters(self.student)
        return parts

    def train_step(self, progress: float) -> dict[str, Tensor]:
        o = self.options
        if o.cuda_graph and self._captured is None:
            images = self.views.batch(self.batch)
            self._captured = CapturedStep(self._optimise, images, self.optimiser, self.ranks)
        set_rate(self.optimiser, progress, o)
        if self._labelled_views is not None:
            # A quarter of each batch has labels; the teacher answers for all of it.
            few = max(1, self.batch // 4)
            batch = self._labelled_views.labelled_batch(few)
            rest = [self.views.batch(self.batch - few)] if self.batch > few else []
            parts = self._optimise(torch.cat([*rest, batch.images]), batch.boxes, batch.classes)
        else:
            step = self._captured or self._optimise
            parts = step(self.views.batch(self.batch))
        return dict(zip(("objectness", "class", "box", "feature", "labels"), parts, strict=True))

    def measure(self) -> dict[str, Any]:
        """Measure the averaged network on the held-out images, for the log; {} without any."""
        if self.held_out is None:
            return {}
        network = self.average.module
        losses = self.held_out.losses(
            lambda x: _flat(network(self._prepared(x))), self.options.box_weight
        )
        return {"held_out": losses}

    def export_graph(self) -> Graph:
        """The averaged INT8 form as a Q/DQ graph."""
        network = self.average.module
        assert isinstance(network, GraphNetwork)
        learned = self.model.base.copy()
        network.write_into(learned)
        return insert_qdq(
            learned,
            network.ranges(),
            keep_float=self.model.kept,
            every_tensor=self.model.every_tensor,
        )


def _levels(outputs: list[Tensor]) -> list[tuple[Tensor, ...]]:
    return [tuple(outputs[i : i + 3]) for i in range(0, len(outputs), 3)]


def _flat(outputs: list[Tensor]) -> Tensor:
    return flatten_outputs(_levels(outputs))


def qat(job: QatJob, on_progress: Progress = no_progress) -> dict[str, float]:
    """Quantise a model, train its INT8 form, and export it.

    Writes `qat.onnx`, `checkpoint.pt` and `log.json` into the job's folder, also where a signal
    ends the run early.

    Args:
        job: what to read, train and write.
        on_progress: told of images that were read and of every step.

    Returns:
        Losses on the held-out images against the float network ("objectness", "class", "box",
        "sum"); empty where there are none.

    Raises:
        ConfigurationError: an option does not fit the model, or there are no images.
        ModelError: the model cannot be trained, or the checkpoint is of another run.
    """
    options = job.options
    with joined(job.device, options.batch) as (device, ranks):
        on_progress = ranks.told(on_progress)
        check_step(device, options, ranks.batch(options.batch))
        prepare_folder(job.output)
        resumed = read_training(job.resume)
        held_out_paths = list_images(job.held_out)
        paths = ranks.part(list_images(job.images)[: job.limit or None])
        base = trainable_graph(job.model, job.calibration.preprocessing)
        spec = read_spec(base)
        labels = None
        if job.annotations is not None and job.labelled_images is not None:
            labels = CocoLabels.load(job.annotations, job.labelled_images).part(ranks)
            _check_classes(labels.class_names, spec.class_names)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")
        source = job.calibration.images or job.images[0]
        inputs = CalibrationInputs(source, read_image_input(base), limit=job.calibration.limit)
        model = quantize(base, inputs, job.quantization, on_progress=on_progress)

        def load(files: Iterable[Path]) -> ImageStore:
            return ImageStore.load(
                list(files), side=options.canvas, device=device, on_progress=on_progress
            )

        train = load(paths)
        labelled = None if labels is None else (load(labels.paths), labels)
        held = load(held_out_paths) if held_out_paths and ranks.is_first else None
        trainer = QatTrainer(model, train, labelled, held, options, device=device, ranks=ranks)

        def export(log: Log) -> None:
            if found := trainer.measure():
                log.append(found)
            with whole_or_none(job.output / "qat.onnx") as part:
                require("onnx").save(trainer.export_graph().to_model(), str(part))

        log = run_training(
            trainer, job, export, resumed=resumed, title="qat", on_progress=on_progress
        )
    return log[-1].get("held_out", {}) if log else {}


@refuses_damaged
def trainable_graph(model: Path, preprocessing: Preprocessing | None = None) -> Graph:
    """Read a float YOLOX, and rewrite it as a DLA takes it, ending in raw heads.

    Args:
        model: ONNX file.
        preprocessing: what its input expects; None as its metadata say.

    Raises:
        ModelError: it is quantised already, or has a segmentation head.
    """
    graph = Graph.load(model)
    if graph.find("QuantizeLinear", "DequantizeLinear"):
        raise ModelError(
            f"'{model}' is quantised already",
            expected="the float model, which is calibrated first",
            fix="give the model from which it was made, or `yolox_trt translate` it",
        )
    options = SurgeryOptions(target="dla", preprocessing=preprocessing)
    rewritten = Graph(optimize(graph, options).model)
    if read_spec(rewritten).segmentation is not None:
        raise ModelError(
            f"'{model}' with a segmentation head",
            expected="a detection head alone",
            fix="quantise it without training: yolox_trt quantize MODEL --images FOLDER -o OUT",
        )
    return rewritten


def _check_classes(labelled: list[str], known: tuple[str, ...]) -> None:
    if tuple(labelled) != known:
        raise ConfigurationError(
            f"labels of {len(labelled)} classes ({', '.join(labelled[:5])} ...)",
            expected=f"the {len(known)} of the model, in its order ({', '.join(known[:5])} ...)",
            fix=("leave out ", options_of(QatJob)["annotations"], ", or give labels of these"),
        )
