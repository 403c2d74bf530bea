# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A graph in PyTorch computes what ONNX Runtime does, quantised or not, and learns its scales."""

from __future__ import annotations

import numpy as np
import pytest
from support.onnx_graphs import make_graph
from support.onnx_graphs import run as run_onnx
from support.yolox_graphs import build_yolox

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from yolox_trt.compiler.int8.collect import collect_statistics, float_tensors
from yolox_trt.compiler.int8.qdq import insert_qdq, weight_scales
from yolox_trt.compiler.surgery import SurgeryOptions, optimize
from yolox_trt.core.errors import ModelError
from yolox_trt.graph.graph import Graph
from yolox_trt.training.graph_network import GraphNetwork, _FakeQuantize, quantize_weights
from yolox_trt.training.schedule import WeightAverage

RNG = np.random.default_rng(0)
#: Every kind of node that a YOLOX has behind surgery, in one small network.
NODES = [
    ("Conv", ["x", "w1", "b1"], ["a"], {"pads": [1] * 4, "strides": [2, 2]}),
    ("Clip", ["a", "zero", "six"], ["c"], {}),
    ("Conv", ["c", "w2"], ["d"], {"pads": [1] * 4, "group": 8}),
    ("Sigmoid", ["d"], ["s"], {}),
    ("Mul", ["d", "s"], ["m"], {}),
    ("Mul", ["m", "half"], ["e"], {}),
    ("Add", ["c", "e"], ["r"], {}),
    ("MaxPool", ["r"], ["p"], {"kernel_shape": [5, 5], "pads": [2] * 4, "strides": [1, 1]}),
    ("Concat", ["r", "p"], ["t"], {"axis": 1}),
    (
        "Resize", ["t", "", "scales"], ["u"],
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric",
         "nearest_mode": "floor"},
    ),
    ("Conv", ["u", "w3", "b3"], ["y"], {}),
]  # fmt: skip


def small_graph() -> Graph:
    def weights(*shape: int) -> np.ndarray:
        return RNG.normal(size=shape).astype(np.float32)

    constants = {
        "w1": 0.01 * weights(8, 3, 3, 3), "b1": weights(8), "w2": weights(8, 1, 3, 3),
        "w3": weights(5, 16, 1, 1), "b3": weights(5), "zero": np.float32(0), "six": np.float32(6),
        "half": np.full((1, 8, 1, 1), 0.5, np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }  # fmt: skip
    return Graph(make_graph(NODES, {"x": (1, 3, 16, 16)}, ["y"], constants))


@pytest.fixture
def image() -> np.ndarray:
    return (RNG.random((1, 3, 16, 16)) * 255).astype(np.float32)


@pytest.mark.parametrize("every_tensor", [False, True])
def test_it_computes_what_onnx_runtime_computes(image: np.ndarray, every_tensor: bool) -> None:
    base = small_graph()
    ranges = collect_statistics(base, [image], tensors=float_tensors(base)).ranges("max")
    quantized = insert_qdq(base, ranges, every_tensor=every_tensor)
    for graph, network in (
        (base, GraphNetwork(base)),
        (quantized, GraphNetwork(base, quantized, ranges)),
    ):
        expected = run_onnx(graph.to_model(), {"x": image})["y"]
        with torch.no_grad():
            found = network(torch.tensor(image))[0].numpy()
        # A sum that lies between two codes may be rounded to either.
        off = np.abs(found - expected) > 1e-4 * np.abs(expected).max()
        assert off.mean() < 0.01
    explicit = {n.inputs[0].name for n in quantized.find("QuantizeLinear") if n.variables}
    assert network.ranges() == {name: ranges[name] for name in explicit}


def test_weights_are_quantised_as_in_the_exported_file() -> None:
    weight = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
    weight[2] *= 1e-9  # a channel that all but does nothing, beside a large bias
    bias, node = np.array([1, -2, 50, 0], np.float32), small_graph().find("Conv")[0]
    scales, _ = weight_scales(weight, node, bias, 0.02)
    codes = np.clip(np.rint(weight / scales.reshape(-1, 1, 1, 1)), -127, 127)
    found = quantize_weights(torch.tensor(weight), torch.tensor(bias), torch.tensor(0.02))
    np.testing.assert_allclose(found.numpy(), codes * scales.reshape(-1, 1, 1, 1), rtol=1e-6)


def test_gradients_of_values_and_scale() -> None:
    x = torch.tensor([0.26, -0.9, 20.0, -20.0], requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    out = _FakeQuantize.apply(x, scale)
    torch.testing.assert_close(out, torch.tensor([0.3, -0.9, 12.7, -12.8]))
    (out * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([1.0, 2.0, 0.0, 0.0]))
    # Esser et al., equation 3: round(v) - v inside, the clipped code outside.
    torch.testing.assert_close(scale.grad, torch.tensor(0.4 + 0.0 + 3 * 127 - 4 * 128))


def test_an_average_has_weights_of_its_own(image: np.ndarray) -> None:
    network = GraphNetwork(small_graph())
    average = WeightAverage(network, 0.9).module
    x = torch.tensor(image)
    with torch.no_grad():
        before = average(x)[0]
        for parameter in network.parameters():
            parameter.mul_(2.0)
        assert not torch.equal(network(x)[0], before)
        assert torch.equal(average(x)[0], before)


def test_what_was_learned_goes_back_into_the_graph(image: np.ndarray) -> None:
    base = small_graph()
    network = GraphNetwork(base)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        expected = network(torch.tensor(image))[0].numpy()
    learned = base.copy()
    network.write_into(learned)
    found = run_onnx(learned.to_model(), {"x": image})["y"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert {n.inputs[1].name for n in learned.find("Conv")} == {"w1", "w2", "w3"}


def test_a_whole_yolox() -> None:
    model = build_yolox(width=0.125, num_classes=3, depthwise=True)
    graph = Graph(optimize(model, SurgeryOptions(target="dla"), verify=False).model)
    x = (RNG.random((1, 3, 64, 96)) * 255).astype(np.float32)
    with torch.no_grad():
        found = GraphNetwork(graph)(torch.tensor(x))
    outputs = run_onnx(graph.to_model(), {graph.inputs[0].name: x})
    for value, mine in zip(graph.outputs, found, strict=True):
        expected = outputs[value.name]
        atol = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(mine.numpy(), expected, rtol=0, atol=atol)


def test_an_unknown_operator_is_named() -> None:
    model = make_graph([("Erf", ["x"], ["y"], {})], {"x": (1, 3, 4, 4)}, ["y"])
    with pytest.raises(ModelError, match=r"operator Erf \('n_y'\).*optimize MODEL"):
        GraphNetwork(Graph(model))
