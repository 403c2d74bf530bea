# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The whole surgery: DLA-ready graphs, the numerical check, merging, EfficientNMS."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import pytest
from support.networks import NETWORKS, small
from support.onnx_graphs import in_float16, make_graph, operators, random_feeds, run, worst
from support.passes import apply
from support.yolox_graphs import NANO, build_yolox, build_yolox_s

from yolox_trt.compiler.dla import check
from yolox_trt.compiler.dla.options import DlaTarget
from yolox_trt.compiler.surgery import (
    PASSES,
    SurgeryOptions,
    optimize,
    pipeline,
)
from yolox_trt.compiler.surgery.constant_folding import ConstantFolding
from yolox_trt.compiler.surgery.focus_to_conv import FocusToConv
from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.core.model_spec import PREPROCESSING_PRESETS
from yolox_trt.core.output_paths import json_text
from yolox_trt.graph import predictions
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.predictions import TOLERANCE, predict, relative_difference, sample_images
from yolox_trt.graph.spec import read_spec
from yolox_trt.graph.values import Value

EXPORTS = {
    "old exporter": NANO,
    "new exporter, open batch": {"style": "opset13", "batch": None, "upsample": "sizes"},
    "decoded": {"head": "decoded"},
    "EfficientNMS": {"head": "efficient_nms", "style": "opset13"},
    "depthwise": {"depthwise": True},
    "batch norm": {"batch_norm": True, "style": "opset13"},
    "hard swish": {"activation": "hardswish_op"},
    "RGB and / 255 in the graph": {"channel_swap": "slice", "normalize": "mul"},
    "mean and std in the graph": {"normalize": "sub_div"},
    "half-pixel upsampling": {"upsample": "half_pixel"},
    "ReLU6": {"activation": "relu6", "stem": "conv", "spp": "chained"},
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("export", EXPORTS)
def test_every_export_comes_out_dla_ready(export) -> None:
    model = build_yolox(num_classes=5, **EXPORTS[export])
    result = optimize(model, SurgeryOptions(target="dla"))
    assert result.report.difference is not None and result.report.difference < TOLERANCE
    for version, precision in (("8.5", "int8"), ("8.6", "int8"), ("10.3", "fp16")):
        report = check(result.model, DlaTarget(tensorrt=version, precision=precision))
        assert report.passes, report.fallback_nodes
        assert len(report.subgraphs) == 1
        assert report.input_format == f"{precision}:dla_hwc4" or "mean" in export
    # Independently of the pipeline's own check:
    images = sample_images(1, 64, 96, seed=11)
    assert relative_difference(predict(model, images), predict(result.model, images)) < TOLERANCE


def test_a_relu6_model_is_fully_native() -> None:
    model = build_yolox(activation="relu6", stem="conv", spp="chained", head="raw_levels",
                        sigmoid=False)  # fmt: skip
    report = check(optimize(model, SurgeryOptions(target="dla")).model, DlaTarget(precision="int8"))
    assert report.passes and not report.fp16_nodes


def test_report_counts() -> None:
    report = optimize(build_yolox(), SurgeryOptions(target="dla")).report
    assert report.before.operators["Slice"] == 8
    assert "Slice" not in report.after.operators
    assert report.before.gpu_nodes == 15 and report.after.gpu_nodes == 0
    assert report.before.subgraphs == 2 and report.after.subgraphs == 1
    assert report.after.transfers == 0 < report.before.transfers
    # Focus' 3 x 3 over 12 channels is the 6 x 6 over 3: not one operation more.
    assert report.after.gflops == pytest.approx(report.before.gflops, abs=1e-12)
    assert report.after.parameters == report.before.parameters
    json.loads(json_text(report))


def test_another_size_is_compared_with_the_original_at_that_size() -> None:
    options = SurgeryOptions(target="gpu", input_size=(96, 64), batch=2, head="keep")
    result = optimize(build_yolox(head="decoded"), options)
    assert result.report.difference is not None and result.report.difference < TOLERANCE
    spec = read_spec(result.model)
    assert (spec.batch, spec.input_height, spec.input_width) == (2, 96, 64)


def test_a_defect_in_a_pass_is_found(monkeypatch) -> None:
    """A Focus whose phases are taken in the wrong order must not leave the pipeline."""

    class Wrong(FocusToConv):
        def rewrite(self, graph, log) -> None:
            super().rewrite(graph, log)
            conv = graph.find("Conv")[0]
            conv.set_input(1, graph.constant("wrong", conv.constant(1)[:, :, ::-1]))

    monkeypatch.setitem(pipeline.PASSES, Wrong.name, Wrong)
    with pytest.raises(ModelError, match="focus-to-conv changed the predictions"):
        optimize(build_yolox(), SurgeryOptions())


def test_rounding_is_no_defect_where_scores_and_boxes_are_small() -> None:
    """Fresh weights score 0.01 at most, in boxes near 0: float32 rounds them by more than 1e-4."""
    model = build_yolox(head="decoded", num_classes=5)
    for tensor in model.graph.initializer:
        if re.search(r"(reg|obj|cls)_preds.*weight", tensor.name):
            weights = 1e-3 * onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
        if re.search(r"(obj|cls)_preds.*bias", tensor.name):
            bias = np.full(tensor.dims, -12.0, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(bias, tensor.name))
    difference = optimize(model, SurgeryOptions(target="dla")).report.difference
    assert difference is not None and difference < TOLERANCE


def test_a_small_defect_is_found_too(monkeypatch) -> None:
    """One weight in a thousand off by a tenth of a per cent of the largest."""

    class Wrong(FocusToConv):
        def rewrite(self, graph, log) -> None:
            super().rewrite(graph, log)
            conv = graph.find("Conv")[0]
            weights = conv.constant(1).copy()
            weights.ravel()[::1000] += 0.05 * np.abs(weights).max()
            conv.set_input(1, graph.constant("wrong", weights))

    monkeypatch.setitem(pipeline.PASSES, Wrong.name, Wrong)
    with pytest.raises(ModelError, match="changed the predictions"):
        optimize(build_yolox(), SurgeryOptions())


class Untyped(FocusToConv):
    """Hangs a node on the output that ONNX Runtime refuses: Sigmoid of an integer."""

    name = "focus-to-conv"

    def rewrite(self, graph, log) -> None:
        (output,) = graph.outputs
        counts = graph.add_node("Cast", "broken", [output], {"to": 7})
        broken = Value(graph.unused_name("broken_sigmoid"), 1, output.shape)
        graph.add_node("Sigmoid", "broken_sigmoid", [counts], output=broken)
        graph.outputs = [broken]
        log.change("broken")


def test_a_model_that_a_pass_broke_is_not_written(monkeypatch) -> None:
    monkeypatch.setitem(pipeline.PASSES, Untyped.name, Untyped)
    with pytest.raises(ModelError, match=r"does not run since pass focus-to-conv.*`skip` to focus"):
        optimize(build_yolox(width=0.125), SurgeryOptions(head="keep"))


def test_what_a_later_pass_mends_is_compared_in_the_end(monkeypatch) -> None:
    class Early(Untyped):
        name = "fix-shape"

        def __init__(self, *_) -> None:
            pass

    monkeypatch.setitem(pipeline.PASSES, Early.name, Early)
    report = optimize(build_yolox(width=0.125), SurgeryOptions(head="raw")).report
    assert report.difference is not None and report.difference < TOLERANCE
    differences = {record.name: record.difference for record in report.passes}
    assert differences["fix-shape"] is None and differences["cut-head"] is not None


def test_weights_in_fp16_constant_nodes_count_as_fp16(monkeypatch) -> None:
    """Rewriting FP16 arithmetic rounds in other places: the tolerance follows the type."""
    model = in_float16(build_yolox(width=0.125))
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for tensor in tensors:
        model.graph.node.add().CopyFrom(
            onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        )
    model.graph.node.extend(nodes)
    monkeypatch.setattr(predictions, "TOLERANCE", 0.0)
    report = optimize(model, SurgeryOptions(head="raw")).report
    assert report.difference is not None and 0.0 < report.difference < 1e-2


def test_skipped_passes_do_not_run() -> None:
    skip = frozenset({"focus-to-conv", "merge-duplicates"})
    result = optimize(build_yolox(), SurgeryOptions(skip=skip))
    assert operators(result.model)["Slice"] == 8
    with pytest.raises(ConfigurationError, match="pass 'focus'; expected one of "):
        optimize(build_yolox(), SurgeryOptions(skip=frozenset({"focus"})))


def test_pass_names_are_unique_and_described() -> None:
    assert len(PASSES) == 21
    assert all(p.summary and p.name == name for name, p in PASSES.items())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"target": "dla", "uint8_input": True}, "unsigned"),
        ({"target": "dla", "head": "efficient-nms"}, "head that a DLA runs"),
        ({"target": "npu"}, "gpu or dla"),
    ],
)
def test_contradictions_are_refused(options, match) -> None:
    with pytest.raises(ConfigurationError, match=match):
        SurgeryOptions(**options)


def test_metadata_of_the_user() -> None:
    options = SurgeryOptions(
        preprocessing=PREPROCESSING_PRESETS["rgb_imagenet"], class_names=("a", "b"),
        fold_preprocessing=True,
    )  # fmt: skip
    result = optimize(build_yolox(num_classes=2), options)
    spec = read_spec(result.model)
    assert spec.class_names == ("a", "b")
    assert spec.preprocessing.is_identity and spec.preprocessing.color_order == "bgr"
    assert result.report.difference is not None and result.report.difference < TOLERANCE


def test_progress_counts_up() -> None:
    seen: list[tuple[str, int, int]] = []
    optimize(build_yolox(), progress=lambda *a: seen.append(a))
    assert [s for _, s, _ in seen] == list(range(len(seen)))
    assert seen[-1][2] == len(seen)


def test_verification_can_be_left_out() -> None:
    report = optimize(build_yolox(), verify=False).report
    assert report.difference is None and report.not_measured == "switched off"


def test_load_errors_name_the_path(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"missing\.onnx"):
        optimize(tmp_path / "missing.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"not a protobuf at all")
    with pytest.raises(ModelError, match="cannot be read"):
        optimize(tmp_path / "broken.onnx")


def test_external_weights_are_loaded(tmp_path) -> None:
    path = tmp_path / "model.onnx"
    model = build_yolox()
    onnx.save(model, str(path), save_as_external_data=True, location="weights.bin")
    result = optimize(path, SurgeryOptions(target="dla"))
    assert result.report.difference is not None and result.report.difference < TOLERANCE


def test_yolox_s_at_another_size() -> None:
    """The published figures: TIER IV counts 38.07 GFLOPs and 8.94 M parameters at 960x608."""
    options = SurgeryOptions(target="dla", input_size=(608, 960))
    report = optimize(build_yolox_s(320, 320), options, verify=False).report
    assert report.after.gflops == pytest.approx(38.07, rel=0.005)
    assert report.after.parameters / 1e6 == pytest.approx(8.94, rel=0.005)


def test_the_published_nano(data_dir) -> None:
    path = data_dir / "models" / "yolox_nano.onnx"
    if not path.is_file():
        pytest.skip(f"no {path}")
    before = check(path)
    assert {n.op for n in before.fallback_nodes} == {
        "Slice", "MaxPool", "Reshape", "Transpose", "Concat",
    }  # fmt: skip
    result = optimize(path, SurgeryOptions(target="dla"))
    assert result.report.difference is not None and result.report.difference < TOLERANCE
    assert check(result.model).passes
    larger = optimize(path, SurgeryOptions(target="dla", input_size=(608, 960)))
    assert larger.report.difference is not None and larger.report.difference < TOLERANCE
    assert check(larger.model).passes


@pytest.mark.parametrize(
    ("activation", "word"), [("silu", "silu"), ("relu6", "relu6"), ("lrelu", "lrelu")]
)
def test_the_activation_is_noted(activation, word) -> None:
    result = optimize(build_yolox(activation=activation), verify=False)
    metadata = {p.key: json.loads(p.value) for p in result.model.metadata_props}
    assert metadata["yolox_trt.activation"] == word


@pytest.mark.parametrize("head", ["raw", "efficient-nms"])
def test_graphs_in_fp16(head) -> None:
    model = in_float16(build_yolox(normalize="sub_div", channel_swap="gather", num_classes=3))
    result = optimize(model, SurgeryOptions(head=head))
    assert result.report.difference is not None and result.report.difference < 2e-3
    assert all(r.difference is not None for r in result.report.passes if r.changes), "all run"
    weights = [
        i.data_type for i in result.model.graph.initializer if len(i.dims) == 4 and i.dims[2] > 1
    ]
    assert set(weights) == {onnx.TensorProto.FLOAT16}


def test_quantisation_nodes_are_not_folded() -> None:
    """Weights behind Q/DQ keep their INT8: TensorRT reads the precision from there."""
    rng = np.random.default_rng(0)
    nodes = [
        ("QuantizeLinear", ["x", "sx", "z"], ["qx"], {}),
        ("DequantizeLinear", ["qx", "sx", "z"], ["dx"], {}),
        ("DequantizeLinear", ["qw", "sw", "zw"], ["dw"], {"axis": 0}),
        ("Conv", ["dx", "dw"], ["y"], {}),
    ]
    constants = {
        "sx": np.float32(0.1),
        "z": np.int8(0),
        "qw": rng.integers(-127, 127, (4, 3, 3, 3)).astype(np.int8),
        "sw": np.full(4, 0.01, np.float32),
        "zw": np.zeros(4, np.int8),
    }
    model = make_graph(nodes, {"x": (1, 3, 8, 8)}, ["y"], constants)
    result = apply(ConstantFolding(), model)
    assert not result.changes
    assert operators(result.model) == operators(model)


def test_a_model_is_loaded_once_and_its_shapes_are_inferred_at_most_three_times(
    tmp_path, monkeypatch
) -> None:
    """Every inference and load goes over the whole model; passes keep what they know."""
    path = tmp_path / "yolox.onnx"
    onnx.save(build_yolox(), path)
    calls = []

    def counted(name, function):
        def call(*args, **options):
            calls.append(name)
            return function(*args, **options)

        return call

    monkeypatch.setattr(onnx, "load", counted("load", onnx.load))
    infer = onnx.shape_inference.infer_shapes
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", counted("infer", infer))
    report = optimize(path, SurgeryOptions(target="dla")).report
    assert {"cut-head", "focus-to-conv", "spp-to-chain"} <= {p.name for p in report.passes}
    assert calls.count("load") == 1
    assert 1 <= calls.count("infer") <= 3


@pytest.mark.parametrize("defect", ["operator", "input"])
def test_a_model_that_onnx_refuses_is_not_taken_for_a_defect_of_a_pass(defect) -> None:
    model = build_yolox(width=0.125)
    if defect == "operator":
        model.graph.node[3].op_type = "NoSuchOperator"
    else:
        model.graph.node[50].input[0] = "nowhere"
    with pytest.raises(ModelError, match=r"^an invalid graph \(.*(NoSuchOperator|nowhere)"):
        optimize(model, SurgeryOptions())


def test_an_output_whose_shape_nobody_noted_is_taken() -> None:
    model = build_yolox(style="opset13", head="decoded")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    result = optimize(model, SurgeryOptions(target="dla"))
    assert [output.name for output in result.model.graph.output][:2] == ["reg_8", "obj_8"]
    assert result.report.difference is not None and result.report.difference < 1e-4


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_any_network_is_rewritten_and_compared_by_its_outputs(name: str) -> None:
    model = small(name)
    result = optimize(model, SurgeryOptions(target="dla"))
    report = result.report
    assert report.not_measured == "" and report.difference is not None
    assert report.difference <= 1e-4
    assert report.after.gpu_nodes <= report.before.gpu_nodes
    assert [o.name for o in result.model.graph.output] == [o.name for o in model.graph.output]
    notes = {log.name: log.notes for log in report.passes}
    assert "no YOLOX" in notes["cut-head"][0]
    feeds = random_feeds(model)
    assert worst(run(model, feeds), run(result.model, feeds)) < 1e-3


def test_a_change_of_any_network_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(self: SurgeryPass, graph: Graph, log: PassLog) -> None:
        conv = graph.find("Conv")[-1]
        conv.set_input(1, graph.constant("spoiled", 1.01 * conv.constant(1)))
        log.change("spoiled")

    monkeypatch.setattr(PASSES["fuse-batch-norm"], "rewrite", spoil)
    with pytest.raises(ModelError, match=r"fuse-batch-norm changed the predictions by 0\.01"):
        optimize(segmentation_network(), SurgeryOptions())


def test_another_size_of_any_network() -> None:
    report = optimize(segmentation_network("h", "w"), SurgeryOptions(input_size=(33, 50))).report
    assert report.difference is not None and report.difference < 1e-5


def segmentation_network(height: int | str = 32, width: int | str = 32) -> onnx.ModelProto:
    weights = np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)
    return make_graph(
        [("Conv", ["x", "w"], ["c"], {"pads": [1] * 4}), ("Identity", ["c"], ["y"], {})],
        {"x": (1, 3, height, width)}, ["y"], {"w": weights},
    )  # fmt: skip
