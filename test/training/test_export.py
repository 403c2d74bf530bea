# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The exported file computes what the module computes, and says what it is."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from yolox_trt.core.errors import ModelError
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.input_size import wished_size
from yolox_trt.training.checkpoint import load_trained
from yolox_trt.training.export import export_onnx, output_names
from yolox_trt.training.model_config import CONFIGS
from yolox_trt.training.options import ExportOptions
from yolox_trt.training.yolox import YOLOX, decode_outputs, flatten_outputs


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(3)
    return YOLOX(replace(CONFIGS["yolox_nano"].dla_ready(), depth=0.0, norm=False)).eval()


@pytest.fixture(scope="module")
def full(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with raw heads, for 96 x 64."""
    path: Path = tmp_path_factory.mktemp("export") / "full.onnx"
    export_onnx(model, path, ExportOptions(size=(96, 64)))
    return path


@pytest.fixture(scope="module")
def half(model: Any, full: Path) -> Path:
    """The same with its weights in float16."""
    path = full.with_name("half.onnx")
    export_onnx(model, path, ExportOptions(size=(96, 64), half_weights=True))
    return path


def run(path: Path, x: Any) -> list[Any]:
    return list(ort.InferenceSession(str(path)).run(None, {"images": x.numpy()}))


def test_raw_heads_equal_the_module(model: Any, full: Path) -> None:
    x = torch.rand(1, 3, 96, 64) * 255
    with torch.no_grad():
        expected = [t.numpy() for level in model(x) for t in level]
    got = run(full, x)
    assert [o.name for o in onnx.load(str(full)).graph.output] == output_names("raw")
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() < 1e-4


def test_graph_holds_only_what_a_dla_takes(full: Path) -> None:
    operators = {n.op_type for n in onnx.load(str(full)).graph.node}
    assert operators == {"Conv", "Clip", "Concat", "Add", "MaxPool", "Resize"}


def test_half_weights_halve_the_file_and_nothing_else(full: Path, half: Path) -> None:
    assert half.stat().st_size < 0.62 * full.stat().st_size
    x = torch.rand(1, 3, 96, 64) * 255
    for a, b in zip(run(half, x), run(full, x), strict=True):
        assert a.dtype == np.float32
        # float16 keeps 11 bits of each weight.
        assert np.abs(a - b).max() < 2e-2 * max(1.0, np.abs(b).max())


def test_decoded_form_and_open_batch(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export_onnx(model, path, ExportOptions(size=(64, 96), form="decoded", dynamic_batch=True))
    x = torch.rand(3, 3, 64, 96) * 255
    (got,) = run(path, x)
    with torch.no_grad():
        flat = flatten_outputs(model(x))
        boxes, scores = decode_outputs(flat, (64, 96))
    assert got.shape == (3, 8 * 12 + 4 * 6 + 2 * 3, 85)
    low = got[..., :2] - got[..., 2:4] / 2
    assert np.abs(low - boxes[..., :2].numpy()).max() < 1e-2
    assert np.abs(got[..., 4:5] * got[..., 5:] - scores.numpy()).max() < 1e-4


@pytest.fixture
def tiny() -> Any:
    """Few enough channels to be exported in a second."""
    config = replace(
        CONFIGS["yolox_tiny"].dla_ready(), width=0.0625, norm=False, num_classes=2,
        input_size=(64, 64), class_names=("ball", "block"),
    )  # fmt: skip
    return YOLOX(config).eval()


def names_in(path: Path) -> list[str]:
    entries = {e.key: e.value for e in onnx.load(str(path)).metadata_props}
    return list(json.loads(entries["yolox_trt.class_names"]))


def test_decoded_form_of_a_large_input(tiny: Any, tmp_path: Path) -> None:
    """Constants with dimensions over 255."""
    path = tmp_path / "m.onnx"
    export_onnx(tiny, path, ExportOptions(size=(256, 288), form="decoded"))
    (output,) = run(path, torch.rand(1, 3, 256, 288) * 255)
    assert output.shape == (1, 32 * 36 + 16 * 18 + 8 * 9, 7)


def test_a_model_may_wish_the_size_that_fits(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for wishes in (False, True):
        export_onnx(tiny, path, ExportOptions(auto_size=wishes))
        assert wished_size(Graph.load(path)) == ("auto" if wishes else None)


def test_what_fails_leaves_the_older_file(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"older")

    def fail(_: object, **__: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(onnx.checker, "check_model", fail)
    with pytest.raises(RuntimeError):
        export_onnx(tiny, path)
    assert path.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_class_names_go_with_the_weights(tiny: Any, tmp_path: Path) -> None:
    torch.save({"config": asdict(tiny.config), "state": tiny.state_dict()}, tmp_path / "m.pt")
    trained = load_trained(tmp_path / "m.pt")
    export_onnx(trained, tmp_path / "m.onnx")
    assert names_in(tmp_path / "m.onnx") == ["ball", "block"]


def test_weights_of_a_version_without_class_names(tiny: Any, tmp_path: Path) -> None:
    config = asdict(tiny.config)
    del config["class_names"]
    torch.save({"config": config, "state": tiny.state_dict()}, tmp_path / "m.pt")
    assert load_trained(tmp_path / "m.pt").config.class_names == ()


def test_read_spec_understands_the_file(half: Path) -> None:
    onnx_spec = pytest.importorskip("yolox_trt.graph.spec")
    spec = onnx_spec.read_spec(half)
    assert (spec.input_height, spec.input_width, spec.num_classes) == (96, 64, 80)
    assert [level.stride for level in spec.levels] == [8, 16, 32]
    assert not spec.sigmoid
    assert spec.class_names[0] == "person"


def test_batch_norm_must_be_folded_first(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="fold_batch_norm"):
        export_onnx(YOLOX(CONFIGS["yolox_nano"]), tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (b"", "cannot be read by PyTorch"),
        (b"not weights at all", "cannot be read by PyTorch"),
        (b"\x80\x02.", "cannot be read by PyTorch"),
        ([1, 2], "without the entries"),
        ({"config": {}, "state": {"a": 1}}, "more than tensors"),
        ({"config": {"colour": 1}, "state": {}}, "of another kind"),
        ({"config": {}, "state": {1: torch.zeros(1)}}, "more than tensors"),
        ({"config": {}, "state": {"a": torch.zeros(3).to_sparse()}}, "sparse, quantised"),
        ({"config": {}, "state": {"a": torch.eye(3).to_sparse_csr()}}, "sparse, quantised"),
        ({"config": {}, "state": {"a": torch.empty(1 << 40, device="meta")}}, "sparse, quantised"),
        (
            {
                "config": {},
                "state": {"a": torch.quantize_per_tensor(torch.zeros(4), 1, 0, torch.qint8)},
            },
            "sparse, quantised",
        ),
    ],
)
def test_weights_that_are_none_are_named(tmp_path: Path, saved: Any, message: str) -> None:
    path = tmp_path / "student.pt"
    with pytest.raises(ModelError, match="no file"):
        load_trained(path)
    if isinstance(saved, bytes):
        path.write_bytes(saved)
    else:
        torch.save(saved, path)
    with pytest.raises(ModelError, match=f"{message}.*expected .*fix: "):
        load_trained(path)


def test_weights_of_another_network_are_refused(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "student.pt"
    state = model.state_dict()
    state.pop(next(iter(state)))
    torch.save({"config": asdict(model.config), "state": state}, path)
    with pytest.raises(ModelError, match="weights of another network"):
        load_trained(path)


def test_shipped_model_is_small_and_dla_ready(repository: Path) -> None:
    path = repository / "models" / "yolox_nano_dense_relu6.onnx"
    assert path.stat().st_size < 5_000_000
    operators = {n.op_type for n in onnx.load(str(path)).graph.node}
    assert operators == {"Cast", "Conv", "Clip", "Concat", "Add", "MaxPool", "Resize"}
    assert len((repository / "models" / "coco.txt").read_text().split("\n")) == 81


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 1e9}, "of another kind.*depth"),
        ({"depth": float("nan")}, "of another kind.*depth"),
        ({"width": 100.0}, "weights of another network"),
        ({"num_classes": 10**12}, "weights of another network"),
    ],
)
def test_a_network_that_its_weights_are_not_of_takes_no_memory(
    tiny: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    config = asdict(tiny.config) | change
    torch.save({"config": config, "state": tiny.state_dict()}, tmp_path / "m.pt")
    with pytest.raises(ModelError, match=message):
        load_trained(tmp_path / "m.pt")


def test_weights_that_grow_when_they_are_read_are_refused(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    state = {"a": torch.zeros(1, dtype=torch.half).expand(1 << 40)}
    torch.save({"config": asdict(tiny.config), "state": state}, path)
    with pytest.raises(ModelError, match="would grow"):
        load_trained(path)
    torch.save({"config": {}, "state": {"a": torch.zeros(1 << 20)}}, path)
    with zipfile.ZipFile(path) as whole:
        entries = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in entries.items():
            packed.writestr(name, data)
    with pytest.raises(ModelError, match="packed"):
        load_trained(path)
