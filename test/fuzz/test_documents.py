# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile YAML, JSON and text: parameters, plans, labels, processes' messages."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.fuzz import check_refusal, damaged, examples, keep

from yolox_trt.core.coco import read_instances
from yolox_trt.core.contention import Contention
from yolox_trt.core.documents import parse_json, parse_yaml
from yolox_trt.core.errors import ConfigurationError, ModelError, YoloxTrtError
from yolox_trt.core.labels import load_class_names
from yolox_trt.core.model_spec import ModelSpec, Preprocessing
from yolox_trt.planning.plan_config import PlanConfig
from yolox_trt.ros.ingest.channel import IngestChannel
from yolox_trt.ros.nodes.parameters import CAMERA_OPTIONS, EXECUTOR_OPTIONS
from yolox_trt.ros.tools.launch_arguments import plain_value, process_settings

CONFIG = Path(__file__).resolve().parents[2] / "config"
PARAMETERS, PLAN = ((CONFIG / name).read_bytes() for name in ("multi_camera.yaml", "orin_agx.yaml"))
COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 5}],
    "categories": [{"id": 1, "name": "person"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1.5]}],
}
#: Bombs: deep nesting, aliases, a number of base 60, a merge key.
BOMBS = (
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (c, c, c - 1, c - 1) for c in b"bcdef"),
    b"a: &a [*a]",
    b"a: " + b"1:" * 30_000 + b"1",
    b"<<: [*x, *x]",
    b"!!python/object/apply:os.system [true]",
    b"a: &a {<<: *a}",
    b"? {a: b}\n: c",
    b"1e999999",
    b"NaN",
    b"9" * 5000,
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """Return a document with some of its parts replaced, renamed or left out."""
    if isinstance(document, dict | list) and draw(st.integers(0, 3)):
        pairs = document.items() if isinstance(document, dict) else enumerate(document)
        parts = [(key, draw(changed(value))) for key, value in pairs if draw(st.integers(0, 9))]
        if isinstance(document, list):
            return [value for _, value in parts]
        return {key if draw(st.integers(0, 15)) else draw(SCALARS): value for key, value in parts}
    return draw(VALUES) if draw(st.integers(0, 3)) == 0 else document


def texts(sound: bytes) -> st.SearchStrategy[bytes]:
    """Return a strategy of YAML (JSON is YAML, too) that is damaged in bytes or in its parts."""
    document = yaml.safe_load(sound)
    # `default=str` and sort_keys: keys of several types cannot be sorted.
    written = changed(document).map(
        lambda each: yaml.safe_dump(each, sort_keys=False).encode("utf-8", "replace")
    )
    return damaged(sound) | written | st.sampled_from(BOMBS)


def refused(read: Callable[[], Any], *errors: type[Exception]) -> None:
    """Call, and check the error that it refuses an input with."""
    try:
        read()
    except YoloxTrtError as error:
        assert isinstance(error, ConfigurationError | ModelError)
        check_refusal(error)
    except errors:
        pass


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to be written again and again."""
    return tmp_path_factory.mktemp("fuzz") / "document"


@examples(40)
@given(data=texts(PARAMETERS))
def test_parameter_files(file: Path, data: bytes) -> None:
    keep(data)
    file.write_bytes(data)
    refused(lambda: process_settings({"config": str(file)}, namespace="/robot"))


@examples(40)
@given(data=texts(PLAN))
def test_plans(file: Path, data: bytes) -> None:
    keep(data)
    file.write_bytes(data)
    refused(lambda: PlanConfig.load(file))


@examples(30)
@given(data=texts(json.dumps(COCO).encode()))
def test_coco_labels(file: Path, data: bytes) -> None:
    keep(data)
    file.write_bytes(data)
    refused(lambda: read_instances(file, sizes=True, fix="give another one"))


@examples(20)
@given(data=damaged(b"person\ncar\n") | st.binary(max_size=60))
def test_label_files(file: Path, data: bytes) -> None:
    keep(data)
    file.write_bytes(data)
    refused(lambda: load_class_names(file, 2))


@examples(50)
@given(
    data=texts(b"{a: [1, 2.5, {b: c}]}")
    | st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace"))
)
def test_texts(data: bytes) -> None:
    keep(data)
    text = data.decode("utf-8", "replace")
    refused(lambda: parse_yaml(text), ValueError)
    refused(lambda: parse_json(text), ValueError)
    refused(lambda: Contention.parse(text))
    refused(lambda: Preprocessing.from_json(text))
    for option in (CAMERA_OPTIONS["roi"], EXECUTOR_OPTIONS["contention"]):
        refused(lambda option=option: plain_value(option, text))


@examples(50)
@given(name=st.sampled_from(sorted({*CAMERA_OPTIONS, *EXECUTOR_OPTIONS})), value=VALUES)
def test_parameters(name: str, value: Any) -> None:
    """A parameter of any type is taken, in its own type, or refused."""
    keep((name, value))
    for options in (CAMERA_OPTIONS, EXECUTOR_OPTIONS):
        if name in options:
            refused(lambda option=options[name]: option.plain(value))


SPEC = {
    **{"input_name": "images", "input_height": 8, "input_width": 8, "batch": 1, "num_classes": 2},
    **{"head": "raw_levels", "output_names": ["a"], "class_names": ["x", "y"]},
    "levels": [{"stride": 8, "height": 1, "width": 1, "box": {"name": "a", "channel": 0}}],
    "preprocessing": {"order": "bgr", "scale": 1.0, "mean": [0, 0, 0], "std": [1, 1, 1]},
}


@examples(30)
@given(changed(SPEC))
def test_model_descriptions(values: Any) -> None:
    keep(values)
    refused(lambda: ModelSpec.from_dict(values))


@examples(30)
@given(
    damaged(b'{"kind": "frame", "camera": "front", "slot": 0}')
    | st.binary(max_size=100)
    | st.just(bytes(100_000))
)
def test_messages_between_processes(data: bytes) -> None:
    """A message is received or refused, and the next one comes through."""
    keep(data)
    channel, end = IngestChannel.pair()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    if data:
        end.send(data)
        refused(channel.receive, ValueError)
    end.send(b'{"kind": "alive"}')
    assert channel.receive() == ({"kind": "alive"}, None)
    channel.close()
    end.close()
