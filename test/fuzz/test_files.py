# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile files of the tools: read, or refused by one error."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz.test_documents import BOMBS, COCO, changed
from hypothesis import given
from hypothesis import strategies as st
from support.engine_files import EXAMPLE
from support.fuzz import check_refusal, damaged, examples, keep

from yolox_trt.batch.detection import detections_of, read_table, schema
from yolox_trt.batch.exports import frame_of
from yolox_trt.batch.manifest import read_manifest
from yolox_trt.compiler.inspect.inspector import read_profile
from yolox_trt.compiler.int8.calibration_cache import CacheOptions as CalibrationCacheOptions
from yolox_trt.compiler.int8.calibration_cache import cache_bytes, read_cache
from yolox_trt.compiler.int8.collect import Statistics
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.histogram import Histogram
from yolox_trt.compiler.int8.images import image_paths
from yolox_trt.compiler.int8.options import QuantizeOptions
from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.core.labels import load_remap
from yolox_trt.core.option import options_of
from yolox_trt.core.zones import parse_polygons
from yolox_trt.engines.cache_pruning import list_engines
from yolox_trt.engines.engine_file import is_loadable, read_engine, sidecar_path
from yolox_trt.evaluation.dataset import load_dataset
from yolox_trt.evaluation.options import DatasetOptions
from yolox_trt.evaluation.regression import read_expectation
from yolox_trt.ros.tools.bag import DetectionBagWriter

RANGES = DynamicRanges({"images": np.float32(1.0), "a b": np.float32(0.5)}, "max")
CACHE = cache_bytes(RANGES, CalibrationCacheOptions())
SIDECAR = {
    **{"format": 1, "engine_sha256": "0" * 64, "engine_bytes": 4, "details": {"report": {}}},
    "fingerprint": EXAMPLE.to_dict(),
    "model_spec": {"levels": [], "head": "none", "output_names": ["y"], "class_names": []},
}
#: Name -> a sound document, and what reads it.
DOCUMENTS: dict[str, tuple[Any, Callable[[Path], object]]] = {
    "ranges": ({"algorithm": "max", "ranges": {"a": 1.0}, "scales": {"a": "0x1p-1"}},
               DynamicRanges.load_json),
    "layers": ({"Conv_1": "fp16"},
               lambda path: options_of(QuantizeOptions)["keep_fp16"].typed(str(path))),
    "profile": ([{"count": 3}, {"name": "Conv_1", "averageMs": 1.5}], read_profile),
    "expectation": ({"cameras": {"front": [{"stamp_ns": 1, "detections": [["car", *[0.5] * 5]]}]}},
                    read_expectation),
    "coco": (COCO, lambda path: load_dataset(DatasetOptions(annotations=path))),
    "images": (COCO, image_paths),
    "bdd": ([{"name": "a.jpg", "labels": [
                {"category": "car", "box2d": dict.fromkeys(("x1", "y1", "x2", "y2"), 1.0)}]}],
            lambda path: load_dataset(DatasetOptions(bdd100k=path, images=path.parent))),
}  # fmt: skip


def refused(read: Callable[[], object]) -> None:
    """Call, and check the error that it refuses a file with."""
    try:
        read()
    except YoloxTrtError as error:
        check_refusal(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the files, with the image that they name."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "a.jpg").write_bytes(b"")
    return folder


def texts(document: Any) -> st.SearchStrategy[bytes]:
    """Return a strategy of JSON that is damaged in bytes or in its parts."""
    written = changed(document).map(lambda each: json.dumps(each, default=str).encode())
    return damaged(json.dumps(document).encode()) | written | st.sampled_from(BOMBS)


@pytest.mark.parametrize("name", DOCUMENTS)
@examples(15)
@given(data=st.data())
def test_documents(folder: Path, name: str, data: st.DataObject) -> None:
    document, read = DOCUMENTS[name]
    text = data.draw(texts(document))
    keep(text)
    file = folder / f"{name}.json"
    file.write_bytes(text)
    refused(lambda: read(file))


@examples(30)
@given(data=damaged(CACHE) | st.sampled_from(BOMBS))
def test_calibration_caches(folder: Path, data: bytes) -> None:
    keep(data)
    (folder / "cache").write_bytes(data)
    refused(lambda: read_cache(folder / "cache"))


@examples(30)
@given(data=damaged(b"name,id\nperson,1\ncar,-1\n"))
def test_class_maps(folder: Path, data: bytes) -> None:
    keep(data)
    (folder / "remap.csv").write_bytes(data)
    refused(lambda: load_remap(folder / "remap.csv", ("person", "car"), most=7, what="labels"))


@examples(30)
@given(text=st.text(" 0123456789,.-", max_size=60) | st.text(max_size=20))
def test_zones(text: str) -> None:
    keep(text)
    refused(lambda: parse_polygons([text]))


@examples(30)
@given(data=texts(SIDECAR))
def test_sidecars(folder: Path, data: bytes) -> None:
    """One that is no sidecar costs its engine alone."""
    keep(data)
    engine = folder / "cache folder" / "a.engine"
    engine.parent.mkdir(exist_ok=True)
    engine.write_bytes(b"ftrt")
    sidecar_path(engine).write_bytes(data)
    refused(lambda: read_engine(engine))
    is_loadable(engine)
    assert [entry.path for entry in list_engines(engine.parent)] == [engine]


def parquet(columns: Any, rows: list[dict[str, Any]], metadata: dict[bytes, bytes]) -> bytes:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, columns.with_metadata(metadata)), file)
    return file.getvalue()


@examples(20)
@given(data=st.data())
def test_tables(folder: Path, data: st.DataObject) -> None:
    """Of another schema, another description, or damaged."""
    pa = pytest.importorskip("pyarrow")
    kind = st.sampled_from((pa.string(), pa.int64(), pa.float32(), pa.list_(pa.int32())))
    known = data.draw(st.sampled_from((["part", "state"], schema().names)))
    names = data.draw(st.lists(st.sampled_from([*known, "x"]), unique=True))
    columns = pa.schema([(name, data.draw(kind)) for name in names])
    whole = data.draw(st.booleans())
    metadata = {
        key: data.draw(st.sampled_from((b"[]", b"{}", b"1", b'["a"]', *BOMBS)))
        for key in (b"yolox_trt.job", b"yolox_trt.names", b"yolox_trt.class_names")
        if data.draw(st.booleans())
    }
    table = parquet(schema() if whole else columns, [], metadata)
    table = data.draw(damaged(table)) if data.draw(st.booleans()) else table
    keep(table)
    (folder / "manifest.parquet").write_bytes(table)
    refused(lambda: read_table(folder / "manifest.parquet"))
    refused(lambda: read_manifest(folder, ".parquet"))


def statistics() -> bytes:
    found = Statistics(images=2, channel_amax={"a": np.ones(3, np.float32)}, input_copies={"a"})
    found.histograms["a"] = histogram = Histogram()
    histogram.add(np.linspace(-3, 2, 50, dtype=np.float32))
    return found.to_bytes()


STATISTICS = statistics()


@examples(40)
@given(data=st.data())
def test_statistics(data: st.DataObject) -> None:
    """What is read can be merged, and gives ranges."""
    if data.draw(st.booleans()):
        content = data.draw(damaged(STATISTICS))
    else:
        arrays = dict(np.load(io.BytesIO(STATISTICS)))
        name = data.draw(st.sampled_from(sorted(arrays)))
        shape = data.draw(
            st.just(arrays[name].shape) | st.sampled_from(((), (4,), (1, 4), (5000,)))
        )
        value = data.draw(st.sampled_from((0, -1, 1, 1e-300, 1e300, np.nan, np.inf, 2**62, "a")))
        kind = data.draw(st.just(None) | st.just(arrays[name].dtype))
        try:
            with np.errstate(invalid="ignore"):
                arrays[name] = np.full(shape, value, kind)
        except (ValueError, OverflowError):
            arrays[name] = np.full(shape, value)
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        content = file.getvalue()
    keep(content)

    def read() -> None:
        merged = Statistics.from_bytes(STATISTICS)
        merged.merge(Statistics.from_bytes(content))
        for algorithm in ("max", "entropy", "percentile"):
            merged.ranges(algorithm)

    refused(read)


NUMBERS = st.none() | st.sampled_from((-(2**31), -1, 0, 1, 2**31 - 1))
TIMES = NUMBERS | st.sampled_from((-(2**63), 2**63 - 1))
FOUND = {
    "class_id": NUMBERS,
    "class": st.none() | st.text(max_size=5),
    **dict.fromkeys(("score", "x1", "y1", "x2", "y2"), st.none() | st.floats(width=32)),
}
ROWS = st.fixed_dictionaries({
    **dict.fromkeys(("source", "topic", "frame_id", "file"), st.none() | st.just("a")),
    **dict.fromkeys(("part", "frame", "height", "width"), NUMBERS),
    **dict.fromkeys(("stamp_ns", "received_ns", "image_id"), TIMES),
    "detections": st.none() | st.lists(st.none() | st.fixed_dictionaries(FOUND), max_size=2),
})  # fmt: skip


@examples(30)
@given(row=ROWS, sound=st.booleans())
def test_values_of_tables(folder: Path, row: dict[str, Any], sound: bool) -> None:
    """A row that is read can be written into a bag and a COCO file."""
    if sound:  # each value is one that may be, but for one
        whole = {name: 1 if row[name] is None or row[name] < 1 else row[name]
                 for name in ("part", "frame", "height", "width", "received_ns")}  # fmt: skip
        row = {**row, "source": "a", "frame_id": "", **whole}
    keep(row)
    file = folder / "part.parquet"
    file.write_bytes(parquet(schema(), [row], {b"yolox_trt.class_names": b'["car"]'}))
    try:
        table, _ = read_table(file)
    except YoloxTrtError as error:
        check_refusal(error)
        return
    (read,) = table.to_pylist()
    shutil.rmtree(folder / "bag", ignore_errors=True)
    with DetectionBagWriter(folder / "bag", ["a"], ("car",)) as writer:
        writer.write(frame_of({**read, "topic": "a"}), detections_of(read))
