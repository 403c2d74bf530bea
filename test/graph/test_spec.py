# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""engines.onnx_spec: every published form of a YOLOX graph is recognised, anything else refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from support.yolox_graphs import build_yolox

from yolox_trt.core import HeadLayout, HeadTensor, ModelError, Preprocessing
from yolox_trt.core.labels import COCO_CLASSES
from yolox_trt.core.model_spec import METADATA_PREPROCESSING, METADATA_STRIDES
from yolox_trt.graph.spec import read_spec


def rename(model: onnx.ModelProto, names: dict[str, str]) -> onnx.ModelProto:
    """Give tensors other names everywhere in the graph."""
    for node in model.graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
    for value in [*model.graph.output, *model.graph.input]:
        value.name = names.get(value.name, value.name)
    return model


def reorder_outputs(model: onnx.ModelProto, order: list[int]) -> onnx.ModelProto:
    outputs = [model.graph.output[i] for i in order]
    copies = [onnx.ValueInfoProto.FromString(o.SerializeToString()) for o in outputs]
    del model.graph.output[:]
    model.graph.output.extend(copies)
    return model


def concatenate_levels(model: onnx.ModelProto, num_classes: int) -> onnx.ModelProto:
    """Join reg, obj, cls of each raw level in one output."""
    outputs = []
    for stride in (8, 16, 32):
        names = [f"{kind}_{stride}" for kind in ("reg", "obj", "cls")]
        model.graph.node.append(helper.make_node("Concat", names, [f"level{stride}"], axis=1))
        shape = next(o for o in model.graph.output if o.name == names[0]).type.tensor_type.shape
        sizes = [1, 5 + num_classes, shape.dim[2].dim_value, shape.dim[3].dim_value]
        outputs.append(helper.make_tensor_value_info(f"level{stride}", TensorProto.FLOAT, sizes))
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    return model


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_classes": 1},
        {"num_classes": 4},
        {"num_classes": 7, "activation": "relu6", "stem": "conv"},
        {"style": "opset13"},
        {"style": "opset13", "batch": None},
        {"batch": 4},
        {"height": 128, "width_px": 64},
        {"batch_norm": True, "depthwise": True},
    ],
)
@pytest.mark.parametrize("head", ["undecoded", "decoded", "raw_levels", "efficient_nms"])
def test_finds_every_head(head: str, options: dict[str, Any]) -> None:
    spec = read_spec(build_yolox(head=head, **options))
    height, width = options.get("height", 64), options.get("width_px", 96)
    assert spec.head is HeadLayout(head)
    assert (spec.input_height, spec.input_width) == (height, width)
    assert spec.batch == options.get("batch", 1)
    assert spec.num_classes == options.get("num_classes", 80)
    assert spec.preprocessing == Preprocessing()
    if head == "efficient_nms":
        assert spec.output_names == ("num_dets", "det_boxes", "det_scores", "det_classes")
        assert spec.levels == ()
    else:
        assert spec.strides == (8, 16, 32)
        assert [(v.height, v.width) for v in spec.levels] == [
            (height // s, width // s) for s in (8, 16, 32)
        ]
        assert spec.sigmoid
    if head == "raw_levels":
        assert spec.levels[1].box == HeadTensor("reg_16")
        assert spec.levels[1].objectness == HeadTensor("obj_16")
        assert spec.levels[1].classes == HeadTensor("cls_16")


@pytest.mark.parametrize("num_classes", [1, 4, 80])
def test_raw_levels_without_telling_names_in_any_order(num_classes: int) -> None:
    model = build_yolox(head="raw_levels", num_classes=num_classes, sigmoid=False)
    model = reorder_outputs(model, [8, 1, 5, 0, 2, 4, 3, 7, 6])
    names = {o.name: f"t{i}" for i, o in enumerate(model.graph.output)}
    spec = read_spec(rename(model, names))
    assert not spec.sigmoid
    assert spec.strides == (8, 16, 32)
    for level in spec.levels:
        assert level.box == HeadTensor(names[f"reg_{level.stride}"])
        assert level.objectness == HeadTensor(names[f"obj_{level.stride}"])
        assert level.classes == HeadTensor(names[f"cls_{level.stride}"])


@pytest.mark.parametrize("sigmoid", [True, False])
def test_raw_levels_concatenated(sigmoid: bool) -> None:
    model = build_yolox(head="raw_levels", num_classes=3, sigmoid=sigmoid)
    spec = read_spec(concatenate_levels(model, 3))
    assert spec.head is HeadLayout.RAW_LEVELS
    assert (spec.num_classes, spec.sigmoid) == (3, sigmoid)
    level = spec.levels[2]
    assert (level.box, level.objectness, level.classes) == (
        HeadTensor("level32", 0),
        HeadTensor("level32", 4),
        HeadTensor("level32", 5),
    )


def merge_box_and_objectness(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make one convolution of box and objectness, as optimisers do: they share their input."""
    weights = {i.name: i for i in model.graph.initializer}
    nodes = {node.output[0]: node for node in model.graph.node}
    for level in range(3):
        pair = [
            next(n for n in nodes.values() if f"{kind}_preds.{level}.weight" in "".join(n.input))
            for kind in ("reg", "obj")
        ]
        joined = []
        for place in (1, 2):
            arrays = [onnx.numpy_helper.to_array(weights[n.input[place]]) for n in pair]
            name = f"merged.{level}.{place}"
            tensor = onnx.numpy_helper.from_array(np.concatenate(arrays), name)
            model.graph.initializer.append(tensor)
            joined.append(name)
        merged = onnx.NodeProto()
        merged.CopyFrom(pair[0])
        merged.input[1:] = joined
        merged.output[0] = f"merged.{level}"
        outputs = [n.output[0] for n in pair]
        split = helper.make_node("Split", [merged.output[0]], outputs, axis=1, split=[4, 1])
        index = min(list(model.graph.node).index(n) for n in pair)
        for node in pair:
            model.graph.node.remove(node)
        model.graph.node.insert(index, split)
        model.graph.node.insert(index, merged)
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("num_classes", [1, 5, 80])
@pytest.mark.parametrize("head", ["undecoded", "raw_levels"])
def test_merged_convolutions(head: str, num_classes: int) -> None:
    plain = build_yolox(head=head, num_classes=num_classes)
    merged = merge_box_and_objectness(build_yolox(head=head, num_classes=num_classes))
    assert read_spec(merged) == read_spec(plain)


def quantize_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put Q/DQ behind and in front of every convolution, with one scale."""
    scale = onnx.numpy_helper.from_array(np.float32(0.1), "q.scale")
    model.graph.initializer.append(scale)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        names = [node.input[0], node.output[0]]
        ends = [f"{names[0]}.{node.output[0]}.dq", f"{names[1]}.float"]
        if node.op_type != "Conv":
            model.graph.node.append(node)
            continue
        node.input[0], node.output[0] = ends
        pairs = [(names[0], ends[0]), (ends[1], names[1])]
        for position, (source, target) in enumerate(pairs):
            if position == 1:
                model.graph.node.append(node)
            quantized = f"{target}.q"
            for kind, x, y in (
                ("QuantizeLinear", source, quantized),
                ("DequantizeLinear", quantized, target),
            ):
                model.graph.node.append(helper.make_node(kind, [x, scale.name], [y]))
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("head", ["undecoded", "decoded", "raw_levels"])
def test_quantised_graphs(head: str) -> None:
    model = build_yolox(head=head, num_classes=5)
    assert read_spec(quantize_convolutions(model)) == read_spec(
        build_yolox(head=head, num_classes=5)
    )


def test_operators_of_onnx_runtime_alone_are_refused_with_what_to_do() -> None:
    model = build_yolox(num_classes=5)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    for node in model.graph.node:
        if node.op_type == "MaxPool":
            # Shape inference ends at an operator that onnx does not know.
            node.op_type, node.domain = "NhwcMaxPool", "com.microsoft"
    with pytest.raises(ModelError, match="Q/DQ nodes"):
        read_spec(model)


def test_a_sigmoid_inside_a_fused_convolution_counts(tmp_path: Path) -> None:
    """ONNX Runtime writes it so where it saves a graph that it has optimised."""
    saved, options = tmp_path / "extended.onnx", ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(saved)
    options.log_severity_level = 3
    model = onnx.shape_inference.infer_shapes(build_yolox(num_classes=3, width=0.125))
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert {"FusedConv"} <= {node.op_type for node in onnx.load(str(saved)).graph.node}
    assert read_spec(saved) == read_spec(model)


@pytest.mark.parametrize(
    ("channels", "told"), [(4, "4 channels.*images of 3"), (12, "12 channels.*Focus in the graph")]
)
def test_other_channels_than_an_image_has_are_named(channels: int, told: str) -> None:
    model = build_yolox(num_classes=3, width=0.125)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = channels
    with pytest.raises(ModelError, match=told) as error:
        read_spec(model)
    assert "NCHW" not in error.value.fix


def test_operators_unknown_to_onnx_have_the_shapes_that_the_exporter_noted() -> None:
    model = onnx.shape_inference.infer_shapes(build_yolox(activation="relu"))
    expected = read_spec(model)
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type, node.domain = "OwnRelu", "own"
    model.opset_import.append(onnx.helper.make_opsetid("own", 1))
    assert read_spec(model) == expected


def test_efficient_nms_outputs_in_any_order() -> None:
    model = reorder_outputs(build_yolox(head="efficient_nms"), [2, 0, 3, 1])
    names = {"num_dets": "a", "det_boxes": "b", "det_scores": "c", "det_classes": "d"}
    assert read_spec(rename(model, names)).output_names == ("a", "b", "c", "d")


def test_decoded_is_told_by_the_graph_and_not_by_its_name() -> None:
    model = rename(build_yolox(head="decoded"), {"output": "undecoded_output"})
    assert read_spec(model).head is HeadLayout.DECODED


def test_open_size_is_refused_or_fixed_by_argument() -> None:
    model = build_yolox(style="opset13", dynamic_size=True, batch=None, upsample="sizes")
    with pytest.raises(ModelError, match=r"open height or width.*--input-size"):
        read_spec(model)
    spec = read_spec(model, input_size=(96, 160))
    assert (spec.input_height, spec.input_width, spec.batch) == (96, 160, None)
    assert [(v.height, v.width) for v in spec.levels] == [(12, 20), (6, 10), (3, 5)]


def test_another_size_than_the_graph_fixes_is_refused() -> None:
    with pytest.raises(ModelError, match=r"96x96.*expected 64x96"):
        read_spec(build_yolox(), input_size=(96, 96))


@pytest.mark.parametrize(
    ("key", "value"),
    [("sigmoid", "yes"), ("sigmoid", "{"), ("strides", "[8, null]"), ("strides", '["8", 16]')],
)
def test_metadata_that_say_nothing_are_refused(key: str, value: str) -> None:
    model = build_yolox(num_classes=3, width=0.125)
    helper.set_model_props(model, {f"yolox_trt.{key}": value})
    with pytest.raises(ModelError, match=f"{key}.*metadata"):
        read_spec(model)


def test_sizes_in_other_files_are_read(tmp_path: Path) -> None:
    model = build_yolox(num_classes=3, width=0.125)
    expected = read_spec(model)
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="m.bin", size_threshold=0)
    assert read_spec(path) == expected


def test_metadata_and_arguments() -> None:
    model = build_yolox(num_classes=3, metadata=True)
    assert read_spec(model).class_names == ("class0", "class1", "class2")
    assert read_spec(model, class_names=["a", "b", "c"]).class_names == ("a", "b", "c")
    with pytest.raises(ModelError, match="2 class names"):
        read_spec(model, class_names=["a", "b"])
    legacy = Preprocessing("rgb", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    helper.set_model_props(model, {METADATA_PREPROCESSING: legacy.to_json()})
    assert read_spec(model).preprocessing == legacy
    assert read_spec(model, preprocessing=Preprocessing("rgb")).preprocessing.color_order == "rgb"
    assert read_spec(build_yolox()).class_names == COCO_CLASSES


def test_strides_that_contradict_the_graph_are_refused() -> None:
    model = build_yolox()
    helper.set_model_props(model, {METADATA_STRIDES: "[4, 8, 16]"})
    with pytest.raises(ModelError, match=r"strides \(8, 16, 32\) in the graph"):
        read_spec(model)


def other_model(outputs: list[tuple[str, list[int]]], nodes: list[Any], **sizes: Any) -> Any:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes.get("x", [1, 3, 64, 64]))],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs],
        sizes.get("weights", []),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])


def weight(name: str, *shape: int) -> Any:
    count = 1
    for size in shape:
        count *= size
    return helper.make_tensor(name, TensorProto.FLOAT, shape, [0.0] * count)


def test_models_of_other_kinds_are_refused_with_what_was_found() -> None:
    classifier = other_model(
        [("y", [1, 10])],
        [
            helper.make_node("GlobalAveragePool", ["x"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("MatMul", ["f", "w"], ["y"]),
        ],
        weights=[weight("w", 3, 10)],
    )
    with pytest.raises(ModelError, match=r"rank 2.*expected a YOLOX"):
        read_spec(classifier)
    three_anchors = other_model(
        [("y", [1, 192, 85])],
        [
            helper.make_node("Conv", ["x", "w"], ["c"], strides=[8, 8], kernel_shape=[8, 8]),
            helper.make_node("Reshape", ["c", "s"], ["r"]),
            helper.make_node("Transpose", ["r"], ["y"], perm=[0, 2, 1]),
        ],
        weights=[
            weight("w", 255, 3, 8, 8),
            helper.make_tensor("s", TensorProto.INT64, [3], [1, 85, 192]),
        ],
    )
    with pytest.raises(ModelError, match=r"192 x 85.*5 \+ 250 channels"):
        read_spec(three_anchors)
    channels_last = other_model(
        [("y", [1, 64, 64, 3])],
        [helper.make_node("Relu", ["x"], ["y"])],
        x=[1, 64, 64, 3],
    )
    with pytest.raises(ModelError, match="NCHW"):
        read_spec(channels_last)
    identity = other_model([("y", [1, 3, 64, 64])], [helper.make_node("Relu", ["x"], ["y"])])
    with pytest.raises(ModelError, match="a YOLOX"):
        read_spec(identity)


def test_extra_outputs_are_refused() -> None:
    model = build_yolox()
    model.graph.output.append(
        helper.make_tensor_value_info(model.graph.node[0].output[0], TensorProto.FLOAT, [1])
    )
    with pytest.raises(ModelError, match=r"mixed rank|last convolutions"):
        read_spec(model)


def test_files_that_are_no_model(tmp_path: Any) -> None:
    with pytest.raises(ModelError, match="no file"):
        read_spec(tmp_path / "missing.onnx")
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ModelError, match=r"cannot be read as ONNX|no graph"):
        read_spec(path)


def test_reads_the_official_nano(data_dir: Any) -> None:
    spec = read_spec(data_dir / "models" / "yolox_nano.onnx")
    assert spec.head is HeadLayout.UNDECODED
    assert (spec.input_height, spec.input_width, spec.num_anchors) == (416, 416, 3549)
