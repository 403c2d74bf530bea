# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Quantisation-aware training: from a float ONNX to a Q/DQ one, and on to the DLA."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.yolox_graphs import IMAGENET_MEAN, IMAGENET_STD, build_yolox

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.compiler.dla import check
from yolox_trt.compiler.dla.options import DlaTarget
from yolox_trt.compiler.int8.calibration_cache import read_cache, write_cache
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.layers import last_layers
from yolox_trt.compiler.int8.options import QuantizeOptions
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.int8.quantizer import quantize
from yolox_trt.compiler.int8.translate import remove_qdq
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.core.model_spec import PREPROCESSING_PRESETS
from yolox_trt.graph.graph import Graph
from yolox_trt.training.coco_labels import CocoLabels
from yolox_trt.training.image_store import ImageStore, list_images
from yolox_trt.training.options import CalibrationOptions, QatJob, QatOptions
from yolox_trt.training.qat import QatTrainer, qat, tap_tensors, trainable_graph

SMALL = QatOptions(size=(64, 64), canvas=64, batch=2, steps=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SiLU network with depthwise convolutions and two classes."""
    path = tmp_path_factory.mktemp("qat") / "model.onnx"
    built = build_yolox(
        depth=0, width=0.125, num_classes=2, depthwise=True, height=64, width_px=64, metadata=True
    )
    names = json.dumps(["ball", "block"])
    onnx.helper.set_model_props(built, {"yolox_trt.class_names": names})
    onnx.save(built, str(path))
    return path


@pytest.fixture
def job(model: Path, pictures: Path, tmp_path: Path) -> QatJob:
    return QatJob(
        model=model, images=(pictures,), held_out=(pictures,), output=tmp_path / "run",
        device=Device("cpu"), options=SMALL, calibration=CalibrationOptions(limit=2),
        quantization=QuantizeOptions(equalize=0.75, keep_fp16=("last",), threads=1),
    )  # fmt: skip


def quantized_layers(graph: Graph) -> set[str]:
    return {
        node.name
        for node in graph.find("Conv")
        if node.source(1) is not None and node.source(1).op == "DequantizeLinear"
    }


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["conv_inputs", "all"])
def test_a_run_goes_to_the_dla_and_back_with_the_same_scales(job: QatJob, placement: str) -> None:
    quantization = replace(job.quantization, placement=placement)
    seen: list[tuple[Any, ...]] = []
    held_out = qat(replace(job, quantization=quantization), lambda *state: seen.append(state))
    assert seen[-1][:3] == ("qat", 2, 2) and held_out["sum"] > 0
    trained = Graph.load(job.output / "qat.onnx")
    last = set(last_layers(trained))
    assert len(last) == 9
    assert quantized_layers(trained) == {n.name for n in trained.find("Conv")} - last
    learned = remove_qdq(trained)
    implicit = remove_qdq(trained, for_dla=True)
    assert learned.ranges.items() <= implicit.ranges.items()  # to the bit
    assert set(implicit.keep_float) == last
    report = check(implicit.graph)
    assert report.passes, report.fallback_nodes
    cache = job.output / "model.cache"
    write_cache(cache, implicit.ranges)
    stored = read_cache(cache)
    assert dict(stored) == dict(implicit.ranges)
    # And back from the two files: the scales that were learned, to the bit, for 11.4.1's DLA.
    kept = DynamicRanges({name: stored[name] for name in learned.ranges})
    again = insert_qdq(implicit.graph, kept, keep_float=last, every_tensor=placement == "all")
    assert remove_qdq(again).ranges == learned.ranges
    report = check(again, DlaTarget(tensorrt="11.4.1"))
    assert report.passes, report.fallback_nodes
    assert len(report.subgraphs) == 1
    log = json.loads((job.output / "log.json").read_text())
    assert log[-1]["held_out"] == held_out


def make(
    job: QatJob, options: QatOptions, labelled: Any = None, placement: str = "all"
) -> QatTrainer:
    base = trainable_graph(job.model)
    store = ImageStore.load(list_images(job.images), side=64)
    torch.manual_seed(1)
    inputs = [torch.rand(1, 3, 64, 64).mul(255).numpy()]
    return QatTrainer(
        quantize(base, inputs, replace(job.quantization, placement=placement, keep_fp16=())),
        store, labelled, None, options,
    )  # fmt: skip


@pytest.mark.parametrize("placement", ["conv_inputs", "all"])
def test_training_starts_from_what_quantize_writes(job: QatJob, placement: str) -> None:
    """With every tensor quantised the scales that a DLA wants equal are so already."""
    options = replace(SMALL, shared_scales=placement == "all", feature_weight=0.0)
    trainer = make(job, options, placement=placement)
    exported, model = trainer.export_graph(), trainer.model
    learned = remove_qdq(exported)
    assert learned.ranges == {name: model.ranges[name] for name in learned.explicit}
    for mine, written in zip(exported.find("Conv"), model.graph.find("Conv"), strict=True):
        found, expected = mine.weights(), written.weights()
        # Learned in units of their size: a weight between two codes may become either.
        steps = np.abs(found - expected) / (np.abs(expected).max((1, 2, 3), keepdims=True) / 127)
        assert steps.max() < 1.001 and np.mean(steps > 1e-3) < 0.01


def test_the_int8_form_comes_nearer_to_the_float_network(job: QatJob) -> None:
    trainer = make(job, replace(SMALL, learning_rate=2e-4))
    x = trainer.views.batch(4)
    # A network with random weights scores nothing: only its features are to be learned.
    first, *_, last = [float(trainer._optimise(x)[3]) for _ in range(17)]
    assert last < 0.95 * first


def test_images_are_given_as_the_model_expects_them(
    job: QatJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    legacy = CalibrationOptions(limit=2, preprocessing=PREPROCESSING_PRESETS["rgb_imagenet"])
    given: list[Any] = []

    def prepared(self: QatTrainer, images: Any) -> Any:
        given.extend((images, original(self, images)))
        raise InterruptedError

    original = QatTrainer._prepared
    monkeypatch.setattr(QatTrainer, "_prepared", prepared)
    with pytest.raises(InterruptedError):
        qat(replace(job, calibration=legacy))
    images, found = given
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(found, (images.flip(1) / 255 - mean) / std, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_labels_are_learned_too(job: QatJob, labels: CocoLabels, pictures: Path) -> None:
    store = ImageStore.load(labels.paths, side=64)
    trainer = make(job, SMALL, (store, labels))
    losses = trainer.train_step(0.5)
    assert losses["labels"] > 0
    assert all(torch.isfinite(p.grad).all() for p in trainer.student.parameters())


def test_labels_of_other_classes_are_refused(job: QatJob, labels: CocoLabels) -> None:
    other = onnx.load(str(job.model))
    names = json.dumps(["cat", "dog"])
    onnx.helper.set_model_props(other, {"yolox_trt.class_names": names})
    path = job.output.with_name("other.onnx")
    onnx.save(other, str(path))
    labelled = {"annotations": labels.paths[0].with_name("instances.json"),
                "labelled_images": labels.paths[0].parent}  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"ball, block.*cat, dog.*`annotations`"):
        qat(replace(job, model=path, **labelled))
    with pytest.raises(ConfigurationError, match="`cuda_graph` with `annotations`"):
        replace(job, options=replace(SMALL, cuda_graph=True), **labelled)
    with pytest.raises(ConfigurationError, match=r"`annotations` alone.*`labelled_images`"):
        replace(job, annotations=Path("a.json"))


def test_a_quantised_model_is_refused(job: QatJob, tmp_path: Path) -> None:
    base = trainable_graph(job.model)
    inputs = [torch.rand(1, 3, 64, 64).numpy()]
    done = quantize(base, inputs, QuantizeOptions(threads=1)).graph
    onnx.save(done.to_model(), str(tmp_path / "q.onnx"))
    with pytest.raises(ModelError, match=r"quantised already.*translate"):
        qat(replace(job, model=tmp_path / "q.onnx"))


def test_features_are_compared_at_the_ends_of_blocks(model: Path) -> None:
    graph = trainable_graph(model)
    taps = tap_tensors(graph)
    convs = {node.outputs[0].name: node for node in graph.find("Conv")}
    assert 20 < len(taps) < len(convs) / 2
    assert not set(taps) & {value.name for value in graph.outputs}
