# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The linter on whole graphs: verdicts, subgraphs, transfers, memory, formats, picture."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import onnx
import pytest
from support.command_line import call
from support.onnx_graphs import make_graph
from support.yolox_graphs import build_yolox, build_yolox_s

from yolox_trt.compiler.dla import check
from yolox_trt.compiler.dla.options import DlaTarget
from yolox_trt.compiler.dla.partition import partition
from yolox_trt.compiler.dla.picture import draw

W = np.zeros((8, 8, 1, 1), np.float32)


@pytest.fixture(scope="module")
def stock():
    return check(build_yolox_s(), DlaTarget(tensorrt="8.6", precision="int8"))


@pytest.mark.parametrize("tensorrt", ["8.5", "8.6", "10.3"])
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_stock_yolox_s_falls_back_where_tier_iv_saw_it(tensorrt, precision) -> None:
    """The build log in their slides names stem slices, pools 9 and 13, Reshape and Transpose."""
    report = check(build_yolox_s(), DlaTarget(tensorrt=tensorrt, precision=precision))
    assert not report.passes
    found = {}
    for node in report.fallback_nodes:
        mends = {v.mended_by for v in node.reasons}
        found.setdefault(node.op, []).append((node.detail, *sorted(mends)))
    assert found["Slice"] == [("step 2", "focus-to-conv")] * 8
    assert found["MaxPool"] == [("9x9", "spp-to-chain"), ("13x13", "spp-to-chain")]
    assert found["Reshape"] == [("", "cut-head")] * 3
    assert found["Transpose"] == [("0 2 1", "cut-head")]
    assert found["Concat"] == [("axis 2", "cut-head")]
    assert found.keys() == {"Slice", "MaxPool", "Reshape", "Transpose", "Concat"}
    assert set(report.mending_passes) == {"focus-to-conv", "spp-to-chain", "cut-head"}
    # 83 convolutions, 5 pools and so on stay.
    assert len(report.dla_nodes) == 264


def test_two_subgraphs_around_the_pools(stock) -> None:
    assert len(stock.subgraphs) == 2
    first, second = stock.subgraphs
    assert first.nodes[0].startswith("Concat") and len(first.nodes) + len(second.nodes) == 264
    # All weights of YOLOX-S, a byte each (two where the node runs in FP16).
    total = first.weights + second.weights
    assert total == pytest.approx(8.957e6, rel=0.001)


def test_transfers(stock) -> None:
    inner = [t for t in stock.transfers if not t.boundary]
    # Four slices in, one tensor to both pools, two results back, three levels to the head.
    assert [(t.source, t.target) for t in inner].count(("gpu", "dla")) == 6
    assert [(t.source, t.target) for t in inner].count(("dla", "gpu")) == 4
    to_pools = next(t for t in inner if t.size == 256 * 20 * 20)
    assert to_pools.source == "dla"


def test_sizes_in_dla_formats() -> None:
    """33 channels are 2 x 32 in INT8 and 3 x 16 halves in FP16; an image is HWC4."""
    nodes = [("Conv", ["x", "w"], ["a"], {}), ("Exp", ["a"], ["y"], {})]
    constants = {"w": np.zeros((33, 3, 1, 1), np.float32)}
    model = make_graph(nodes, {"x": (1, 3, 10, 10)}, ["y"], constants)
    for precision, image, tensor in (("int8", 400, 6400), ("fp16", 800, 9600)):
        sizes = {t.tensor: t.size for t in check(model, DlaTarget(precision=precision)).transfers}
        assert sizes == {"x": image, "a": tensor}


def test_memory_of_a_chain() -> None:
    """Two tensors of 8 (32) x 10 x 10 are alive at a time: input and output are the caller's."""
    nodes = [
        ("Relu", ["x"], ["a"], {}),
        ("Relu", ["a"], ["b"], {}),
        ("Relu", ["b"], ["c"], {}),
        ("Relu", ["c"], ["y"], {}),
    ]
    report = check(make_graph(nodes, {"x": (1, 8, 10, 10)}, ["y"]))
    assert report.subgraphs[0].intermediates == 2 * 32 * 100


def test_intermediates_over_a_gibibyte() -> None:
    nodes = [("Relu", ["x"], ["a"], {}), ("Relu", ["a"], ["y"], {})]
    model = make_graph(nodes, {"x": (1, 32, 8192, 8192)}, ["y"])
    report = check(model)
    assert {v.rule for v in report.graph_violations} == {"intermediates"}
    assert not report.fallback_nodes and not report.passes


def test_too_many_loadables() -> None:
    """17 islands between operators that the DLA lacks."""
    nodes, last = [], "x"
    for i in range(17):
        nodes += [("Relu", [last], [f"a{i}"], {}), ("Exp", [f"a{i}"], [f"b{i}"], {})]
        last = f"b{i}"
    report = check(make_graph(nodes, {"x": (1, 8, 4, 4)}, [last]))
    assert len(report.subgraphs) == 17
    assert "loadables" in {v.rule for v in report.graph_violations}
    nodes = nodes[2:]
    nodes[0] = ("Relu", ["x"], ["a1"], {})
    report = check(make_graph(nodes, {"x": (1, 8, 4, 4)}, [last]))
    assert len(report.subgraphs) == 16 and not report.graph_violations


class TestPartition:
    def test_a_path_over_the_gpu_divides(self) -> None:
        # 0 -> 1 (GPU) -> 2 and 0 -> 2: joining 0 and 2 would make a cycle with 1.
        assert partition([0, 1, 2], {0: [1, 2], 1: [2]}, [0, 2]) == [[0], [2]]

    def test_a_side_branch_does_not_divide(self) -> None:
        # 0 -> 1 (GPU, a leaf) and 0 -> 2.
        assert partition([0, 1, 2], {0: [1, 2]}, [0, 2]) == [[0, 2]]

    def test_branches_join(self) -> None:
        assert partition([0, 1, 2, 3], {0: [1, 2], 1: [3], 2: [3]}, [0, 1, 2, 3]) == [[0, 1, 2, 3]]

    def test_a_longer_way_round(self) -> None:
        # 0 -> 1 -> 2(GPU) -> 3(GPU) -> 4, 1 -> 5 -> 4, all but 2 and 3 on the DLA.
        edges = {0: [1], 1: [2, 5], 2: [3], 3: [4], 5: [4]}
        found = partition([0, 1, 2, 3, 5, 4], edges, [0, 1, 4, 5])
        assert found == [[0, 1, 5], [4]]

    @pytest.mark.parametrize("seed", range(20))
    def test_regions_never_form_a_cycle(self, seed) -> None:
        rng = np.random.default_rng(seed)
        count = 30
        edges = {i: [j for j in range(i + 1, count) if rng.random() < 0.12] for i in range(count)}
        on_dla = [i for i in range(count) if rng.random() < 0.7]
        regions = partition(range(count), edges, on_dla)
        assert sorted(n for r in regions for n in r) == on_dla
        owner = {n: ("r", k) for k, r in enumerate(regions) for n in r}
        names = {owner.get(i, ("n", i)) for i in range(count)}
        after = {name: set() for name in names}
        for i, targets in edges.items():
            for j in targets:
                a, b = owner.get(i, ("n", i)), owner.get(j, ("n", j))
                if a != b:
                    after[a].add(b)
        # Kahn's algorithm must be able to order all of them.
        indegree = {n: sum(n in t for t in after.values()) for n in names}
        ready = [n for n, d in indegree.items() if d == 0]
        done = 0
        while ready:
            done += 1
            for target in after[ready.pop()]:
                indegree[target] -= 1
                if indegree[target] == 0:
                    ready.append(target)
        assert done == len(names)
        # Each region hangs together.
        near = {i: set(t) for i, t in edges.items()}
        for i, targets in edges.items():
            for j in targets:
                near[j] = near.get(j, set()) | {i}
        for region in regions:
            reached, stack = set(), [region[0]]
            while stack:
                node = stack.pop()
                if node not in reached:
                    reached.add(node)
                    stack += [n for n in near[node] if n in region]
            assert reached == set(region)


class TestFormats:
    def test_an_image_conv_reads_hwc4(self) -> None:
        report = check(build_yolox(stem="conv", spp="none", head="raw_levels", sigmoid=False))
        assert report.input_format == "int8:dla_hwc4"
        assert report.output_format == ",".join(["int8:chw32"] * 9)

    def test_probabilities_leave_in_fp16(self) -> None:
        report = check(build_yolox(stem="conv", spp="none", head="raw_levels"))
        formats = report.output_format.split(",")
        assert formats.count("int8:chw32") == 3 and formats.count("fp16:chw16") == 6

    def test_other_first_layers_do_not(self) -> None:
        model = make_graph([("Relu", ["x"], ["y"], {})], {"x": (1, 3, 4, 4)}, ["y"])
        assert check(model).input_format == "int8:chw32"
        assert check(model, DlaTarget(precision="fp16")).input_format == "fp16:chw16"


def test_nodes_behind_shape_arithmetic_are_folded() -> None:
    report = check(build_yolox(style="opset13"))
    folded = {n.op for n in report.nodes if n.device == "folded"}
    assert {"Shape", "Gather", "Unsqueeze"} <= folded
    assert not folded & {n.op for n in report.fallback_nodes} - {"Concat"}


def test_an_open_batch_is_noted_not_refused() -> None:
    report = check(build_yolox(style="opset13", batch=None, stem="conv", spp="none",
                               head="raw_levels"))  # fmt: skip
    assert report.passes
    assert "fixed-batch" in {v.rule for v in report.graph_violations}


def test_open_sizes_fall_back_with_the_pass_that_mends() -> None:
    report = check(build_yolox(style="opset13", dynamic_size=True))
    assert not report.dla_nodes or not report.passes
    assert "fix-shape" in report.mending_passes


def test_quantised_graphs_are_told_where_to_go() -> None:
    nodes = [
        ("QuantizeLinear", ["x", "s", "z"], ["q"], {}),
        ("DequantizeLinear", ["q", "s", "z"], ["d"], {}),
        ("Conv", ["d", "w"], ["y"], {}),
    ]
    constants = {"s": np.float32(0.1), "z": np.int8(0), "w": W}
    report = check(make_graph(nodes, {"x": (1, 8, 4, 4)}, ["y"], constants))
    assert report.mending_passes == ("yolox_trt translate",)


def test_quantised_graphs_run_with_11_4_1() -> None:
    """Q/DQ nodes give the layers around them their type, and are no borders of loadables."""
    nodes = [
        ("QuantizeLinear", ["x", "s", "z"], ["q"], {}),
        ("DequantizeLinear", ["q", "s", "z"], ["d"], {}),
        ("DequantizeLinear", ["w8", "s", "z"], ["w"], {}),
        ("Conv", ["d", "w"], ["a"], {}),
        ("Relu", ["a"], ["b"], {}),
        ("QuantizeLinear", ["b", "s", "z"], ["bq"], {}),
        ("DequantizeLinear", ["bq", "s", "z"], ["bd"], {}),
        ("Conv", ["bd", "w"], ["c"], {}),
        ("Conv", ["c", "v"], ["y"], {}),
    ]
    constants = {"s": np.float32(0.1), "z": np.int8(0), "w8": W.astype(np.int8), "v": W}
    model = make_graph(nodes, {"x": (1, 8, 4, 4)}, ["y"], constants)
    report = check(model, DlaTarget(tensorrt="11.4.1"))
    assert report.passes and not report.fallback_nodes
    (subgraph,) = report.subgraphs
    assert (subgraph.inputs, subgraph.outputs) == (("x",), ("y",))
    assert [n.precision for n in report.dla_nodes] == ["int8", "fp16", "int8", "fp16"]
    assert {n.device for n in report.nodes if "Linear" in n.op} == {"dropped"}
    # The input can be INT8, being quantised first; the output has no scale.
    assert (report.input_format, report.output_format) == ("int8:chw32", "fp16:chw16")
    constants["z"] = np.int8(3)
    report = check(
        make_graph(nodes, {"x": (1, 8, 4, 4)}, ["y"], constants), DlaTarget(tensorrt="11.4.1")
    )
    assert {v.rule for n in report.fallback_nodes for v in n.reasons} >= {"qdq-symmetric"}


def test_identities_make_no_layer() -> None:
    nodes = [
        ("Relu", ["x"], ["a"], {}),
        ("Identity", ["a"], ["b"], {}),
        ("Relu", ["b"], ["y"], {}),
    ]
    report = check(make_graph(nodes, {"x": (1, 8, 4, 4)}, ["y"]))
    assert report.passes and len(report.subgraphs) == 1 and len(report.dla_nodes) == 2


def test_json_names_everything(stock) -> None:
    text = json.dumps(stock.to_dict())
    values = json.loads(text)
    assert values["passes"] is False
    node = next(n for n in values["nodes"] if n["op"] == "MaxPool" and n["device"] == "gpu")
    assert node["violations"][0]["rule"] == "pool-window"
    assert node["violations"][0]["mended_by"] == "spp-to-chain"
    assert node["violations"][0]["source"] == "header"


class TestPicture:
    def test_is_well_formed_and_shows_the_fallbacks(self, stock) -> None:
        root = ElementTree.fromstring(draw(stock))
        texts = [t.text or "" for t in root.iter("{http://www.w3.org/2000/svg}text")]
        assert sum("mended by focus-to-conv" in t for t in texts) == 8
        assert any("window 13x13" in t for t in texts)
        assert any("15 on the GPU" in t for t in texts)
        assert texts.count("images") == 1

    def test_boxes_do_not_overlap(self, stock) -> None:
        root = ElementTree.fromstring(draw(stock))
        space = "{http://www.w3.org/2000/svg}"
        boxes = []
        for group in root.iter(f"{space}g"):
            rect = group.find(f"{space}rect")
            if rect is not None and group.find(f"{space}title") is not None:
                boxes.append([float(rect.get(k)) for k in ("x", "y", "width", "height")])
        assert len(boxes) > 100
        for i, (ax, ay, aw, ah) in enumerate(boxes):
            for bx, by, bw, bh in boxes[i + 1 :]:
                apart = ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay
                assert apart

    def test_names_are_escaped(self) -> None:
        model = make_graph([("Relu", ["x<&"], ["y"], {})], {"x<&": (1, 8, 4, 4)}, ["y"])
        ElementTree.fromstring(draw(check(model)))


def test_the_page_lists_every_rule_and_pass(repository) -> None:
    from yolox_trt.compiler.dla.rules import RULES
    from yolox_trt.compiler.surgery import PASSES

    page = (repository / "docs" / "dla.md").read_text()
    effects = {"gpu": "GPU", "fp16": "FP16", "note": "note"}
    for rule in RULES.values():
        mend = f"`{rule.mended_by}`" if rule.mended_by else ""
        row = f"| `{rule.rule}` ({effects[rule.effect]}) | {rule.text} | {rule.source} | {mend} |"
        assert row in page
        assert rule.mended_by in {"", "yolox_trt translate", *PASSES}
    page = (repository / "docs" / "compiler.md").read_text()
    assert all(f"| `{name}` |" in page for name in PASSES)


def test_the_weights_of_quantised_graphs_are_constants() -> None:
    nodes = [
        ("DequantizeLinear", ["qw", "s", "z"], ["w"], {}),
        ("Conv", ["x", "w"], ["y"], {"kernel_shape": [1, 1]}),
    ]
    constants = {"s": np.float32(0.1), "z": np.int8(0), "qw": np.ones((8, 8, 1, 1), np.int8)}
    report = check(make_graph(nodes, {"x": (1, 8, 4, 4)}, ["y"], constants))
    assert {n.op: n.device for n in report.nodes} == {"DequantizeLinear": "gpu", "Conv": "dla"}


def test_a_head_that_optimize_would_refuse_is_not_said_to_be_cut(tmp_path, capsys) -> None:
    nodes = [
        ("MaxPool", ["x"], ["p"], {"kernel_shape": [13, 13], "pads": [6] * 4}),
        ("Conv", ["p", "w"], ["a"], {}),
        ("Exp", ["a"], ["e"], {}),
        ("Reshape", ["e", "s"], ["y"], {}),
    ]
    constants = {"w": np.zeros((33, 3, 1, 1), np.float32), "s": np.array([1, 33, 4096])}
    model = make_graph(nodes, {"x": (1, 3, 64, 64)}, ["y"], constants)
    report = check(model)
    assert {n.op for n in report.fallback_nodes} == {"MaxPool", "Exp", "Reshape"}
    assert report.head_unknown and report.mending_passes == ("spp-to-chain",)
    onnx.save(model, str(tmp_path / "other.onnx"))
    assert call("dla-check", tmp_path / "other.onnx") == 1
    printed = capsys.readouterr().out
    assert "not those of a YOLOX" in printed
    assert "optimize MODEL --target dla" in printed
    assert "cut-head" not in printed
