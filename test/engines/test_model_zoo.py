# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Downloads from a server on this machine: whole, broken off, changed, damaged, offline."""

from __future__ import annotations

import fcntl
import hashlib
import http.server
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from yolox_trt.cli.main import main
from yolox_trt.core import ConfigurationError, ModelError
from yolox_trt.core.files import CACHE_VARIABLE
from yolox_trt.engines import download as download_module
from yolox_trt.engines import model_zoo
from yolox_trt.engines.download import download
from yolox_trt.engines.model_zoo import ZooFile, ZooModel

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT with ranges; breaks off after `limits` bytes, one limit a request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.limits: list[int] = []
        self.ranges: list[str | None] = []
        self.length = ""
        self.location = ""
        self.url = f"http://127.0.0.1:{self.server_port}/files/net.onnx"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        server = self.server
        if "missing" in self.path:
            self.send_error(404)
            return
        if server.location:
            self.send_response(302)
            self.send_header("Location", server.location)
            self.end_headers()
            return
        requested = self.headers.get("Range")
        server.ranges.append(requested)
        content, start = server.content, 0
        if requested:
            match = re.fullmatch(r"bytes=(\d+)-", requested)
            assert match
            start = int(match[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", server.length or str(len(content) - start))
        self.end_headers()
        limit = server.limits.pop(0) if server.limits else len(content)
        self.wfile.write(content[start : start + limit])
        self.wfile.flush()
        self.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def leftovers(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir() if p != path)


def test_whole_file(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a" / "net.onnx"
    calls: list[tuple[str, int, int]] = []
    found = download(server.url, path, sha256=DIGEST, on_progress=lambda *c: calls.append(c))
    assert found == path and path.read_bytes() == CONTENT
    assert leftovers(path) == []
    assert calls[-1] == ("net.onnx", len(CONTENT), len(CONTENT))
    assert [c[1] for c in calls] == sorted(c[1] for c in calls)
    download(server.url, path, sha256=DIGEST)
    assert len(server.ranges) == 1, "an intact file is not fetched again"


@pytest.mark.parametrize("length", ["many", "-5", "1.5"])
def test_a_length_that_is_none_is_left_out_of_account(
    server: Server, tmp_path: Path, length: str
) -> None:
    server.length = length
    path = download(server.url, tmp_path / "net.onnx", sha256=DIGEST)
    assert path.read_bytes() == CONTENT


def test_a_file_that_is_too_large_is_not_taken(server: Server, tmp_path: Path) -> None:
    server.length = str(1 << 40)
    with pytest.raises(ModelError, match=r"net\.onnx' of more than 2147483648 bytes"):
        download(server.url, tmp_path / "net.onnx", sha256=DIGEST)
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize(
    ("length", "location"),
    [("9" * 5000, ""), ("", "http://[::1"), ("", f"http://{'a' * 70}/"), ("", "http://\x80/")],
)
def test_an_answer_that_is_none_is_told(
    server: Server, broken: Path, length: str, location: str
) -> None:
    server.length, server.location = length, location
    with pytest.raises(ModelError, match=r"net\.onnx' that cannot be reached"):
        download(server.url, broken, sha256=DIGEST)


def test_a_broken_connection_is_resumed_in_the_same_call(server: Server, tmp_path: Path) -> None:
    server.limits = [300_000, 500_000]
    path = download(server.url, tmp_path / "net.onnx", sha256=DIGEST)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=800000-"]


@pytest.fixture
def broken(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file to download, in a call that ends where the connection does, after 400,000 bytes."""
    monkeypatch.setattr(download_module, "_ATTEMPTS", 1)
    server.limits = [400_000]
    return tmp_path / "net.onnx"


def test_a_later_call_goes_on(server: Server, broken: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be reached.*what has come so far is kept"):
        download(server.url, broken, sha256=DIGEST)
    assert not broken.exists()
    assert broken.with_suffix(".onnx.part").stat().st_size == 400_000
    download(server.url, broken, sha256=DIGEST)
    assert broken.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=400000-"]
    assert leftovers(broken) == []


def test_a_file_that_changed_on_the_server_starts_again(server: Server, broken: Path) -> None:
    with pytest.raises(ModelError):
        download(server.url, broken)
    server.content = CONTENT[::-1]
    download(server.url, broken)
    assert broken.read_bytes() == CONTENT[::-1]


def test_a_complete_part_is_taken_without_a_byte_more(server: Server, tmp_path: Path) -> None:
    (tmp_path / "net.onnx.part").write_bytes(CONTENT)
    path = download(server.url, tmp_path / "net.onnx", sha256=DIGEST)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


def test_a_part_of_another_file_is_not_kept(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    (tmp_path / "net.onnx.part").write_bytes(b"another")
    with pytest.raises(ModelError, match="fetch it again"):
        download(server.url, path, sha256=DIGEST)
    assert download(server.url, path, sha256=DIGEST).read_bytes() == CONTENT
    assert server.ranges == ["bytes=7-", None]


def test_wrong_digest_leaves_nothing(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(ModelError, match=f"with sha256 {DIGEST}.*expected sha256 0000"):
        download(server.url, path, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_damaged_file_is_fetched_again(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"damaged")
    assert download(server.url, path, sha256=DIGEST).read_bytes() == CONTENT


def test_unknown_digest_is_trusted_once(server: Server, tmp_path: Path) -> None:
    path = download(server.url, tmp_path / "net.onnx")
    record = tmp_path / "net.onnx.sha256"
    assert record.read_text() == f"{DIGEST}  net.onnx\n"
    path.unlink()
    server.content = b"another file"
    with pytest.raises(ModelError, match=f"expected sha256 {DIGEST}"):
        download(server.url, path)
    for damaged in (b"\xff\xfe\x00", b"no digest", DIGEST[1:].encode()):
        record.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"without a digest; expected.*; fix: remove it"):
            download(server.url, path)
    record.unlink()
    assert download(server.url, path).read_bytes() == b"another file"


def test_missing_on_the_server(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="answered 404"):
        download(server.url.replace("net", "missing"), tmp_path / "net.onnx")


def test_offline(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be reached.*copy it to .*net\.onnx"):
        download("http://127.0.0.1:9/net.onnx", tmp_path / "net.onnx")


def test_two_at_once(server: Server, tmp_path: Path) -> None:
    with (tmp_path / "net.onnx.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ModelError, match="another process"):
            download(server.url, tmp_path / "net.onnx")


def test_the_digest_that_another_process_recorded_holds(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both begin without a digest; the other one ends between this one's look and its lock."""
    path, record = tmp_path / "net.onnx", tmp_path / "net.onnx.sha256"
    flock, other = fcntl.flock, b"what the server gave before"
    digest = hashlib.sha256(other).hexdigest()

    def late(descriptor: int, kind: int) -> None:
        path.write_bytes(other)
        record.write_text(f"{digest}  net.onnx\n")
        flock(descriptor, kind)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", late)
        assert download(server.url, path).read_bytes() == other
    assert not server.ranges and record.read_text().startswith(digest)


def test_a_digest_is_recorded_before_its_file_is_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace = tmp_path / "net.onnx", os.replace

    def look(source: Path, target: Path) -> None:
        assert (tmp_path / "net.onnx.sha256").read_text().startswith(DIGEST)
        replace(source, target)

    monkeypatch.setattr(download_module.os, "replace", look)
    assert download(server.url, path).read_bytes() == CONTENT


def test_another_process_that_ends_first_is_not_written_over(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between open and lock, the partial file becomes the file itself."""
    path, part = tmp_path / "net.onnx", tmp_path / "net.onnx.part"
    flock = fcntl.flock

    def late(descriptor: int, kind: int) -> None:
        if not path.exists():
            part.write_bytes(CONTENT)
            part.replace(path)
        flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    assert download(server.url, path, sha256=DIGEST).read_bytes() == CONTENT
    assert not server.ranges and leftovers(path) == []


def test_commands(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = ZooFile(server.url.replace("net.onnx", "labels.txt"), DIGEST)
    model = ZooModel("test-model", "a test", ZooFile(server.url, DIGEST), labels)
    monkeypatch.setitem(model_zoo.MODELS, "test-model", model)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert main(["models", "fetch", "test_model"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(tmp_path / "models" / "test-model" / "net.onnx"),
        str(tmp_path / "models" / "test-model" / "labels.txt"),
    ]
    assert main(["models", "list"]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if "test-model" in x)
    assert line.split() == ["test-model", "a", "test", "Apache-2.0", "yes"]
    assert main(["models", "list", "--json"]) == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert listed["test-model"]["sha256"] == DIGEST
    assert main(["models", "fetch", "yolox-z"]) == 2
    assert "yolox-nano" in capsys.readouterr().err


def test_table_is_complete() -> None:
    for model in model_zoo.MODELS.values():
        for file in model.files:
            assert file.url.startswith("https://")
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert model.onnx.name.endswith(".onnx")
    with pytest.raises(ConfigurationError, match="yolox-tiny"):
        model_zoo.find("yolov5")
