# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A model at another size gives what the same weights exported at that size give."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from support.yolox_graphs import build_yolox, random_images

from yolox_trt.core import ConfigurationError, ModelError
from yolox_trt.core.input_size import best_size
from yolox_trt.core.shipped_files import default_model
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.input_size import has_other_size, note_wish, tool_size, wished_size, with_size
from yolox_trt.graph.predictions import predict, relative_difference

SIZE = (96, 64)


@pytest.mark.parametrize("head", ["undecoded", "decoded", "raw_levels"])
def test_another_size_is_the_same_network(head: str) -> None:
    graph = Graph(build_yolox(num_classes=2, head=head))
    exported = build_yolox(num_classes=2, head=head, height=SIZE[0], width_px=SIZE[1])
    images = random_images(exported, batch=1)["images"]
    fixed = with_size(graph, SIZE)
    found, expected = predict(fixed, images), predict(Graph(exported), images)
    assert relative_difference(expected, found) < 1e-5
    assert graph.image.shape == (1, 3, 64, 96), "the model itself is not changed"
    assert with_size(fixed, SIZE) is fixed
    assert has_other_size(graph, SIZE) and not has_other_size(fixed, SIZE)


def test_an_open_size_is_no_other_size() -> None:
    graph = Graph(build_yolox(num_classes=2, style="opset13", batch=None, dynamic_size=True))
    assert not has_other_size(graph, SIZE)
    assert with_size(graph, SIZE).image.shape[2:] == SIZE  # type: ignore[index]


def test_a_size_that_no_stride_divides() -> None:
    with pytest.raises(ConfigurationError, match=r"input size 100x96; expected multiples of 32"):
        with_size(Graph(build_yolox(num_classes=2)), (100, 96))


def wishing(text: str | None) -> Graph:
    model = build_yolox(num_classes=2)
    if text is not None:
        onnx.helper.set_model_props(model, {"yolox_trt.input_size": text})
    return Graph(model)


def test_wishes() -> None:
    assert wished_size(wishing(None)) is None
    assert wished_size(wishing('"auto"')) == "auto"
    assert wished_size(wishing('"320x544"')) == (320, 544)
    for wrong in ("auto", "[320, 544]", '"wide"'):
        with pytest.raises(ModelError, match=r"yolox_trt.input_size.*fix: write it again"):
            wished_size(wishing(wrong))


def test_a_model_with_an_open_size_wishes_what_it_was_trained_at() -> None:
    opened = build_yolox(num_classes=2, style="opset13", batch=None, dynamic_size=True)
    for text, size in (("[320, 544]", (320, 544)), ("[320]", None), ("x", None), ("[1, {}]", None)):
        onnx.helper.set_model_props(opened, {"imgsz": text})
        assert wished_size(Graph(opened)) == size
    fixed = build_yolox(num_classes=2)
    onnx.helper.set_model_props(fixed, {"imgsz": "[320, 544]"})
    assert wished_size(Graph(fixed)) is None


def test_the_shipped_model_wishes_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("YOLOX_TRT_MODEL", raising=False)
    assert wished_size(Graph.load(default_model())) == "auto"


def test_a_files_wish_is_read_without_its_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start of an engine that is in the cache parses no ONNX."""
    path = tmp_path / "model.onnx"
    for text, size in ((None, None), ('"320x544"', (320, 544))):
        onnx.save(wishing(text).to_model(), path)
        with monkeypatch.context() as patched:
            patched.setattr(onnx, "load", pytest.fail)
            assert wished_size(path) == size
    path.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="cannot be read as ONNX"):
        wished_size(path)


def test_the_size_that_a_tool_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    graph = Graph(build_yolox(num_classes=2, height=96, width_px=96))
    assert tool_size(graph, None) is tool_size(graph, "model") is None
    assert tool_size(graph, (64, 128)) == (64, 128)
    assert tool_size(graph, "auto:1080x1920") == best_size((96, 96), (1080, 1920)) != (96, 96)
    assert not caplog.records
    shapes = [(480, 640), (1080, 1920), (1080, 1920)]
    assert tool_size(graph, "auto", shapes) == best_size((96, 96), (1080, 1920))
    assert "fits 2 of 3 images best" in caplog.text
    with pytest.raises(ConfigurationError, match=r"auto without images.*auto:1080x1920"):
        tool_size(graph, "auto")
    opened = Graph(build_yolox(num_classes=2, style="opset13", batch=None, dynamic_size=True))
    with pytest.raises(ModelError, match="open height or width"):
        tool_size(opened, "auto:1080x1920")


@pytest.mark.parametrize(
    ("wish", "size", "noted"),
    [
        (None, None, None),
        (None, SIZE, None),
        ('"auto"', None, '"auto"'),
        ('"auto"', SIZE, '"model"'),
    ],
)
def test_a_file_keeps_its_wish_until_it_is_given_a_size(
    wish: str | None, size: tuple[int, int] | None, noted: str | None
) -> None:
    graph = wishing(wish)
    note_wish(graph, size)
    assert graph.metadata.get("yolox_trt.input_size") == noted


def test_a_copy_of_the_shipped_model_wishes_auto_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("YOLOX_TRT_MODEL", raising=False)
    graph = Graph.load(default_model())
    note_wish(graph, None)
    assert wished_size(graph.to_model()) == "auto"
