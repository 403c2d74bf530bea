# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A batch that is built in is opened: every form, the rules node by node, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.onnx_graphs import in_float16, make_graph, operators, run
from support.yolox_graphs import build_yolox, random_images

from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.surgery import SurgeryOptions, optimize
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.shipped_files import default_model
from yolox_trt.graph import batch as batch_module
from yolox_trt.graph.batch import fit_batch
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.predictions import predict, relative_difference, sample_images
from yolox_trt.graph.spec import read_spec


def open_batch(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    graph = Graph(model)
    changes = batch_module.open_batch(graph)
    return graph.to_model(), changes


def check_open_batch(model: onnx.ModelProto, opened: onnx.ModelProto, spec: ModelSpec) -> float:
    return batch_module.check_open_batch(Graph(model), Graph(opened), spec)


SMALL = {"width": 0.125, "num_classes": 4}
FORMS: dict[str, dict[str, Any]] = {
    "undecoded": {},
    "decoded": {"head": "decoded"},
    "raw levels": {"head": "raw_levels"},
    "EfficientNMS": {"head": "efficient_nms"},
    "newer exporter": {"style": "opset13", "upsample": "sizes"},
    "newer exporter, decoded": {"style": "opset13", "head": "decoded"},
    "newer exporter, EfficientNMS": {"style": "opset13", "head": "efficient_nms"},
    "batch of 3": {"batch": 3},
    "batch of 3, decoded": {"batch": 3, "style": "opset13", "head": "decoded"},
    "normalised, swapped, joint focus": {
        "normalize": "sub_div",
        "channel_swap": "slice",
        "stem": "focus_joint",
    },
    "split, batch norm": {"channel_swap": "split", "style": "opset13", "batch_norm": True},
    "gather, depthwise": {"channel_swap": "gather", "depthwise": True, "activation": "hardswish"},
    "open size": {"style": "opset13", "dynamic_size": True, "upsample": "sizes"},
}


def shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_for_each_image_what_it_gave(form: str) -> None:
    model = build_yolox(**{**SMALL, **FORMS[form]})
    before = model.SerializeToString()
    opened, changes = open_batch(model)
    assert model.SerializeToString() == before
    assert changes[-1].startswith("input images: ")
    onnx.checker.check_model(opened)
    size = (64, 96)
    spec, found = (read_spec(m, input_size=size) for m in (model, opened))
    assert found.batch is None
    assert [shape(v)[0] for v in [*opened.graph.input, *opened.graph.output]] == ["batch"] * (
        1 + len(opened.graph.output)
    )
    # Beside check_open_batch's own images.
    images = sample_images(7, *size, seed=3)
    difference = relative_difference(
        predict(model, images, spec=spec), predict(opened, images, spec=found)
    )
    assert difference < 1e-5
    assert check_open_batch(model, opened, spec) < 1e-5


@pytest.mark.parametrize("form", ["undecoded", "decoded", "raw levels", "newer exporter"])
def test_at_the_old_batch_nothing_changes_by_a_bit(form: str) -> None:
    model = build_yolox(**{**SMALL, **FORMS[form]})
    opened, _ = open_batch(model)
    feeds = random_images(model)
    expected, found = run(model, feeds), run(opened, feeds)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_names_stay() -> None:
    """Calibration caches and layer precisions go by them."""
    model = build_yolox(**SMALL, head="decoded")
    opened, _ = open_batch(model)
    assert [n.name for n in opened.graph.node] == [n.name for n in model.graph.node]
    assert [n.output for n in opened.graph.node] == [n.output for n in model.graph.node]


def test_an_open_batch_is_left_alone() -> None:
    model = build_yolox(**SMALL, style="opset13", batch=None)
    opened, changes = open_batch(model)
    assert opened == Graph(model).to_model()
    assert not changes


def test_qdq_and_fp16_graphs() -> None:
    model = build_yolox(**SMALL, head="raw_levels")
    tensors = {name for n in model.graph.node for name in (*n.input, *n.output)}
    ranges = DynamicRanges.from_amax(dict.fromkeys(tensors, 6.0) | {"images": 255.0})
    quantized = insert_qdq(Graph(model), ranges).to_model()
    for other in (quantized, in_float16(model, float16_input=True)):
        opened, _ = open_batch(other)
        check_open_batch(other, opened, read_spec(other))


def test_shipped_and_published_models(data_dir: Path) -> None:
    for path in (default_model(), data_dir / "models" / "yolox_nano.onnx"):
        model = onnx.load(str(path))
        opened, _ = open_batch(model)
        spec = read_spec(model)
        assert check_open_batch(model, opened, spec) < 1e-5
        assert read_spec(opened).batch is None


# ---- rules

X = (1, 4, 8, 8)


def node(op: str, *inputs: str, **attributes: Any) -> tuple[str, Any, Any, Any]:
    return op, ["x", *inputs], ["y"], attributes


RULES = {
    "grid repeated for the batch": (
        [node("Add", "c")],
        {"c": np.ones((2, 4, 8, 8), np.float32)},
        2,
    ),
    "grid without the batch": ([node("Add", "c")], {"c": np.ones((4, 8, 8), np.float32)}, 1),
    "expand": ([node("Expand", "c")], {"c": [2, 4, 8, 8]}, 2),
    "expand of fewer axes": ([node("Expand", "c")], {"c": [4, 8, 8]}, 1),
    "slice of all axes": (
        [node("Slice", "a", "b")],
        {"a": [0, 1, 0, 0], "b": [1, 3, 8, 8]},
        1,
    ),
    "resize to sizes": (
        [
            (
                "Resize",
                ["x", "", "", "c"],
                ["y"],
                {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"},
            )
        ],
        {"c": [1, 4, 16, 16]},
        1,
    ),
    "flatten": ([node("Flatten", axis=1)], {}, 1),
    "reshape with -1 elsewhere": ([node("Reshape", "c")], {"c": [1, 2, -1, 16]}, 1),
    "reshape with 0 elsewhere": ([node("Reshape", "c")], {"c": [1, 0, 64]}, 1),
    "reshape with zeros allowed": ([node("Reshape", "c", allowzero=1)], {"c": [1, -1]}, 1),
    "pad": ([node("Pad", "c")], {"c": [0, 0, 1, 1, 0, 0, 1, 1]}, 1),
    "reduce": ([node("ReduceMax", axes=[-1, -2], keepdims=0)], {}, 1),
    "softmax": ([node("Softmax", axis=1)], {}, 1),
    "tile": ([node("Tile", "c")], {"c": [1, 2, 1, 1]}, 1),
    "matrix product": ([node("MatMul", "c")], {"c": np.ones((8, 3), np.float32)}, 1),
    "batches of matrices": (
        [node("MatMul", "c")],
        {"c": np.ones((2, 4, 8, 3), np.float32)},
        2,
    ),
}
CHAINS = {
    "batch last and back": [
        ("Transpose", ["x"], ["t"], {"perm": [1, 2, 3, 0]}),
        ("Mul", ["t", "t"], ["s"], {}),
        ("Transpose", ["s"], ["y"], {"perm": [3, 0, 1, 2]}),
    ],
    "reshape of a batch in the middle": [
        ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2, 3]}),
        ("Reshape", ["t", "target"], ["r"], {}),
        ("Transpose", ["r"], ["y"], {"perm": [1, 0, 2]}),
    ],
    "unsqueeze and squeeze": [
        ("Unsqueeze", ["x", "two"], ["u"], {}),
        ("Squeeze", ["u", "two"], ["y"], {}),
    ],
    "split and concat": [
        ("Split", ["x"], ["a", "b"], {"axis": 1}),
        ("Concat", ["b", "a"], ["y"], {"axis": 1}),
    ],
    "fully connected": [
        ("Flatten", ["x"], ["f"], {"axis": 1}),
        ("Gemm", ["f", "weights"], ["y"], {}),
    ],
    "a target made of shapes": [
        ("Shape", ["x"], ["shape"], {}),
        ("Gather", ["shape", "one"], ["channels"], {"axis": 0}),
        ("Concat", ["one", "channels", "rest"], ["made"], {"axis": 0}),
        ("Reshape", ["x", "made"], ["y"], {}),
    ],
}
CHAIN_CONSTANTS = {
    "target": [4, 1, 64],
    "two": [2],
    "one": [1],
    "rest": [-1],
    "weights": np.ones((256, 3), np.float32),
}


def check_rule(model: onnx.ModelProto, batch: int) -> None:
    opened, _ = open_batch(model)
    x = np.random.default_rng(0).normal(size=(6, *X[1:])).astype(np.float32)
    expected = np.concatenate(
        [run(model, {"x": x[i : i + batch]})["y"] for i in range(0, 6, batch)]
    )
    np.testing.assert_array_equal(run(opened, {"x": x})["y"], expected)
    # One more than a multiple of the old batch.
    np.testing.assert_array_equal(run(opened, {"x": x[:1]})["y"], expected[:1])


@pytest.mark.parametrize("name", RULES)
def test_rules(name: str) -> None:
    nodes, constants, batch = RULES[name]
    check_rule(make_graph(nodes, {"x": (batch, *X[1:])}, ["y"], constants, opset=14), batch)


@pytest.mark.parametrize("name", CHAINS)
def test_chains(name: str) -> None:
    nodes = CHAINS[name]
    used = {i for n in nodes for i in n[1]}
    constants = {k: v for k, v in CHAIN_CONSTANTS.items() if k in used}
    check_rule(make_graph(nodes, {"x": X}, ["y"], constants, check=False), 1)


def test_slices_of_old_opsets() -> None:
    nodes = [("Slice", ["x"], ["y"], {"starts": [0, 1], "ends": [1, 3], "axes": [0, 1]})]
    check_rule(make_graph(nodes, {"x": X}, ["y"], opset=9), 1)


REFUSED = {
    "drops the batch": [node("Squeeze", "zero")],
    "without axes drops": [node("Squeeze")],
    "mixes or drops images": [node("Reshape", "merged")],
    "picks images": [node("Gather", "zero", axis=0)],
    "takes a part of the batch": [node("Slice", "one", "two", "zero")],
    "reduces over the batch": [node("ReduceMean")],
    "works along the batch": [node("Softmax", axis=0)],
    "joins images of the batch": [("Concat", ["x", "x"], ["y"], {"axis": 0})],
    "a constant of the old batch": [("Concat", ["x", "map"], ["y"], {"axis": 1})],
    "joins the batch with another axis": [
        ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2, 3]}),
        ("Add", ["x", "t"], ["y"], {}),
    ],
    "pads the batch": [node("Pad", "pads")],
    "repeats the batch": [node("Tile", "twice")],
    "is not known": [node("GlobalAveragePool"), ("Det", ["x"], ["z"], {})],
    "a value for each image": [node("Mul", "three")],
    "whose shape is not known": [
        ("NoSuchOperator", ["two"], ["u"], {}),
        ("Add", ["x", "u"], ["s"], {}),
        ("Concat", ["s", "x"], ["y"], {"axis": 1}),
    ],
    "does not have the batch as first axis": [node("Transpose", perm=[1, 0, 2, 3])],
}
NAMED = {
    "takes a part of the batch",
    "works along the batch",
    "repeats the batch",
    "is not known",
    "does not have the batch as first axis",
    "whose shape is not known",
}
REFUSED_CONSTANTS = {
    "zero": [0],
    "one": [1],
    "two": [2],
    "merged": [4, 64],
    "map": np.ones(X, np.float32),
    "pads": [1, 0, 0, 0, 0, 0, 0, 0],
    "twice": [2, 1, 1, 1],
    "three": np.ones((3, 4, 8, 8), np.float32),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_is_refused_with_the_node(reason: str) -> None:
    nodes = REFUSED[reason]
    used = {i for n in nodes for i in n[1]}
    constants = {k: v for k, v in REFUSED_CONSTANTS.items() if k in used}
    outputs = [n[2][0] for n in nodes if n[2][0] not in ("t", "u", "s")]
    model = make_graph(nodes, {"x": X}, outputs, constants, check=False)
    # What a rule or a walk finds is named; the rest follows from the shapes, which are shown.
    told = reason if reason in NAMED else "of .*x.* to .*mixes or drops images"
    with pytest.raises(ModelError, match=f"cannot be opened: .*{told}.*--dynamic"):
        open_batch(model)


def decoded_in_place(batch: int) -> onnx.ModelProto:
    """A decoded YOLOX as its older exports are: outputs[..., :2] = ..., outputs[..., 2:4] = ..."""
    model = build_yolox(**SMALL, head="decoded", batch=batch)
    nodes = list(model.graph.node)
    joint = next(n for n in nodes if n.output[0] == "output")
    flat = next(n for n in nodes if n.output[0] == joint.input[2]).input[0]
    for start, values, result in ((0, joint.input[0], "first"), (2, joint.input[1], "output")):
        places = np.meshgrid(*map(np.arange, (batch, 126, 2)), indexing="ij")
        indices = np.stack(places, -1) + np.asarray([0, 0, start])
        name = f"indices_{start}"
        model.graph.initializer.append(onnx.numpy_helper.from_array(indices, name))
        source = flat if result == "first" else "first"
        nodes.append(onnx.helper.make_node("ScatterND", [source, name, values], [result], result))
    nodes.remove(joint)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("batch", [1, 3])
def test_decoding_in_place(batch: int) -> None:
    model = decoded_in_place(batch)
    opened, changes = open_batch(model)
    onnx.checker.check_model(opened)
    assert sum("in place of ScatterND" in change for change in changes) == 2
    assert "ScatterND" not in operators(opened)
    assert check_open_batch(model, opened, read_spec(model)) < 1e-5
    feeds = random_images(model)
    np.testing.assert_array_equal(run(opened, feeds)["output"], run(model, feeds)["output"])


def test_other_scattering_is_refused() -> None:
    model = decoded_in_place(1)
    indices = next(t for t in model.graph.initializer if t.name == "indices_0")
    other = onnx.numpy_helper.to_array(indices)[:, ::-1]
    indices.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(other), indices.name))
    with pytest.raises(ModelError, match=r"'first' \(ScatterND\) writes to places"):
        open_batch(model)


def test_constants_that_differ_between_images_are_refused() -> None:
    table = np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float32)
    model = make_graph([node("Add", "c")], {"x": (2, 4, 8, 8)}, ["y"], {"c": table})
    with pytest.raises(ModelError, match="another constant for each image"):
        open_batch(model)


def test_a_resize_whose_scales_would_be_rounded_is_refused() -> None:
    nodes = [("Resize", ["x", "", "", "sizes"], ["y"], {})]
    model = make_graph(nodes, {"x": (1, 4, 9, 9)}, ["y"], {"sizes": [1, 4, 13, 13]})
    with pytest.raises(ModelError, match="from 9 to 13, no ratio that scales express"):
        open_batch(model)


def test_constants_with_another_reader_are_not_changed() -> None:
    nodes = [
        ("Reshape", ["x", "target"], ["y"], {}),
        ("Reshape", ["table", "target"], ["t"], {}),
        ("Add", ["y", "t"], ["z"], {}),
    ]
    constants = {"target": [1, 4, 64], "table": np.ones((1, 4, 8, 8), np.float32)}
    opened, _ = open_batch(make_graph(nodes, {"x": X}, ["z"], constants))
    x = np.zeros((3, *X[1:]), np.float32)
    np.testing.assert_array_equal(run(opened, {"x": x})["z"], np.ones((3, 4, 64)))


def test_a_defect_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_yolox(**SMALL)
    opened, _ = open_batch(model)
    transpose = next(n for n in opened.graph.node if n.op_type == "Transpose")
    # Every image gets the predictions of the first.
    first = onnx.helper.make_node("Gather", [transpose.output[0], "zero"], ["first"], axis=0)
    spread = onnx.helper.make_node("Add", ["first", "nothing"], ["output"])
    rest = onnx.helper.make_node("Mul", ["spread", "none"], ["nothing"])
    transpose.output[0] = "all"
    first.input[0] = "all"
    rest.input[0] = "all"
    opened.graph.node.extend([first, rest, spread])
    for name, value in (("zero", np.asarray([0])), ("none", np.zeros(1, np.float32))):
        opened.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    with pytest.raises(ModelError, match="with an open batch the predictions differ"):
        check_open_batch(model, opened, read_spec(model))


# ---- who uses it


def test_optimize(tmp_path: Path) -> None:
    model = build_yolox(**SMALL, head="decoded")
    for options in (
        SurgeryOptions(open_batch=True, head="keep"),
        SurgeryOptions(open_batch=True, input_size=(96, 64)),
        SurgeryOptions(open_batch=True, head="efficient-nms"),
    ):
        result = optimize(model, options)
        assert read_spec(result.model).batch is None
        assert result.report.difference is not None and result.report.difference < 1e-4
        record = next(p for p in result.report.passes if p.name == "open-batch")
        assert record.difference is not None
        after = result.report.after.gflops
        assert after == pytest.approx(result.report.before.gflops, rel=1e-9)
    # Nothing is to be done to a batch that is open.
    dynamic = build_yolox(**SMALL, style="opset13", batch=None)
    again = optimize(dynamic, SurgeryOptions(open_batch=True))
    assert read_spec(again.model).batch is None
    assert "open-batch" not in [p.name for p in again.report.passes]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"target": "dla"}, "static batches only"), ({"batch": 2}, "with `batch` 2")],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SurgeryOptions(open_batch=True, **options)


def test_fit_batch(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level("INFO", "yolox_trt")
    model = build_yolox(**SMALL)
    spec = read_spec(model)
    graph = Graph(model)
    for wanted in (None, 1):
        assert fit_batch(graph, spec, wanted) == (None, spec, wanted)
    opened, found, batch = fit_batch(graph, spec, 4)
    assert (found.batch, batch) == (None, 4)
    assert isinstance(opened, onnx.ModelProto)
    assert read_spec(opened).batch is None
    assert "opened for max_batch 4" in caplog.text

    def refuse(graph: Graph) -> Any:
        raise ModelError("node 'n' mixes images")

    monkeypatch.setattr(batch_module, "open_batch", refuse)
    assert fit_batch(graph, spec, 4) == (None, spec, 1)
    assert "runs with batch 1, not 4: node 'n' mixes images" in caplog.text
