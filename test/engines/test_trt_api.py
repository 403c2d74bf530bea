# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Choosing and wrapping a TensorRT module."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest
from support.fake_tensorrt import VERSIONS, EnumValue, FakeTensorRT

from yolox_trt.core.errors import EngineError, MissingDependencyError
from yolox_trt.engines import trt_api
from yolox_trt.engines.tensorrt import _make_profiler
from yolox_trt.engines.trt_api import TensorRTApi, load_api, messages_text


@pytest.fixture(autouse=True)
def no_loaded_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_api, "_loaded", {})


def install(monkeypatch: pytest.MonkeyPatch, name: str, module: ModuleType | None) -> None:
    monkeypatch.setitem(sys.modules, name, module)


def test_tensorrt_goes_before_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "tensorrt", FakeTensorRT("10.3").module)
    install(monkeypatch, "tensorrt_rtx", FakeTensorRT("rtx-1.7").module)
    assert load_api().flavour == "tensorrt"
    assert load_api("tensorrt_rtx").flavour == "tensorrt_rtx"
    assert load_api() is load_api("tensorrt")


def test_rtx_is_taken_where_it_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "tensorrt", None)
    install(monkeypatch, "tensorrt_rtx", FakeTensorRT("rtx-1.7").module)
    assert str(load_api()) == "TensorRT-RTX 1.7.1.116"


def test_stub_files_are_no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "tensorrt", ModuleType("tensorrt"))
    install(monkeypatch, "tensorrt_rtx", None)
    with pytest.raises(MissingDependencyError, match=r"type stubs only.*pip install") as caught:
        load_api()
    assert "tensorrt-rtx-cu13" in caught.value.fix


def test_a_library_that_does_not_load_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise OSError("libnvinfer.so.8: cannot open shared object file")

    monkeypatch.setattr(trt_api.importlib, "import_module", fail)
    with pytest.raises(MissingDependencyError, match=r"libnvinfer\.so\.8"):
        load_api("tensorrt")


def test_unknown_flavour() -> None:
    with pytest.raises(EngineError, match="'openvino'"):
        load_api("openvino")


def test_old_versions_are_refused() -> None:
    with pytest.raises(EngineError, match=r"TensorRT 8\.4\.1.*expected 8\.5"):
        TensorRTApi(FakeTensorRT("8.5", version="8.4.1.5").module)


@pytest.mark.parametrize("name", VERSIONS)
def test_plugins_are_asked_of_each_versions_registry(name: str) -> None:
    fake = FakeTensorRT(name)
    api = TensorRTApi(fake.module)
    assert api.has_plugin("EfficientNMS_TRT") == (fake.flavour == "tensorrt")
    assert "init_libnvinfer_plugins" in fake.names_called()


def test_messages_go_to_logging_and_into_errors(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeTensorRT("8.6")
    api = TensorRTApi(fake.module)
    caplog.set_level(logging.DEBUG, "yolox_trt.tensorrt")
    with api.collect_messages() as messages:
        for severity in ("VERBOSE", "INFO", "WARNING", "ERROR", "INTERNAL_ERROR"):
            api.logger.log(EnumValue("Severity", severity, 0), f"a {severity}")
        api.logger.log(EnumValue("Severity", "VERBOSE", 0), "Layers:\nName: conv")
    api.logger.log(EnumValue("Severity", "ERROR", 0), "after the block")
    assert [text for _, text in messages] == [
        "a INFO",
        "a WARNING",
        "a ERROR",
        "a INTERNAL_ERROR",
        "Layers:\nName: conv",
    ]
    assert messages_text(messages) == "a ERROR | a INTERNAL_ERROR"
    assert api.last_error() == "after the block"
    levels = {record.message: record.levelname for record in caplog.records}
    assert levels["a WARNING"] == "WARNING"
    assert levels["a INTERNAL_ERROR"] == "ERROR"
    assert levels["a INFO"] == "DEBUG"
    assert "a VERBOSE" not in levels


def test_a_warning_that_is_said_for_every_layer_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api = TensorRTApi(FakeTensorRT("8.6").module)
    for _ in range(50):
        api.logger.log(EnumValue("Severity", "WARNING", 0), "Converting scales")
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == ["Converting scales"]


def test_what_a_log_handler_raises_comes_out_behind_the_call() -> None:
    class Interrupted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise KeyboardInterrupt

    api = TensorRTApi(FakeTensorRT("8.6").module)
    handler = Interrupted()
    logging.getLogger("yolox_trt.tensorrt").addHandler(handler)
    try:
        with pytest.raises(KeyboardInterrupt), api.collect_messages():
            api.logger.log(EnumValue("Severity", "ERROR", 0), "x")  # returns, as C++ needs it
        with api.collect_messages():
            pass  # said once
    finally:
        logging.getLogger("yolox_trt.tensorrt").removeHandler(handler)


def test_messages_text_without_errors() -> None:
    assert messages_text([("WARNING", "w"), ("INFO", "i")]) == "w"
    assert "no message" in messages_text([("INFO", "i")])


def test_collections_of_two_threads_do_not_lose_messages() -> None:
    api = TensorRTApi(FakeTensorRT("8.6").module)
    counts = []

    def work() -> None:
        with api.collect_messages() as messages:
            for _ in range(200):
                api.logger.log(EnumValue("Severity", "INFO", 0), "x")
            counts.append(len(messages))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Each sees its own 200 at least: TensorRT's own threads log into every open collection.
    assert len(counts) == 4
    assert all(count >= 200 for count in counts)
    with api.collect_messages() as messages:
        pass
    assert messages == []


def test_real_rtx_module() -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")
    api = load_api("tensorrt_rtx")
    assert api.flavour == "tensorrt_rtx"
    assert api.has("strongly_typed")
    assert not api.has("dla")
    assert not api.has_plugin("EfficientNMS_TRT")
    profiler = _make_profiler(api.module)
    for ms in (1.0, 2.0):
        profiler.report_layer_time("conv", ms)
    assert profiler.times == {"conv": [1.0, 2.0]}


def test_api_tables_name_their_source() -> None:
    for path in (Path(__file__).parents[1] / "support" / "trt_api").glob("*.json"):
        assert path.stem.removeprefix("api_") in VERSIONS
