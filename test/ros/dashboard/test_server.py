# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The dashboard beside cameras and diagnostics that a test publishes, and who may look."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

aiohttp = pytest.importorskip("aiohttp", reason="needs pip install 'aiohttp'")

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from sensor_msgs.msg import Image
from support.diagnostics import OK, STATUSES, entry
from support.ros import Client, image_message
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.limits import LIMITS
from yolox_trt.ros.dashboard.observer import Observer
from yolox_trt.ros.dashboard.options import DashboardOptions
from yolox_trt.ros.dashboard.server import DashboardServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Session:
    """An Observer that a thread spins, and its server."""

    def __init__(self, client: Client, options: DashboardOptions) -> None:
        self.calls: list[Callable[[], None]] = []
        self.server = DashboardServer(options, "7", self.calls.append)
        self.client = client
        self.observer = Observer(self.server.tell, rate=50.0, width=64, context=client.context)
        client.executor.add_node(self.observer)
        self.server.observer = self.observer
        self.server.start()

    def run(self, look: Callable[[], Coroutine[Any, Any, Any]], step: Callable[[], None]) -> Any:
        """Run a coroutine in a thread; meanwhile spin ROS, and call `step` again and again."""
        result: list[Any] = []
        thread = threading.Thread(target=lambda: result.append(asyncio.run(look())))
        thread.start()
        end = time.monotonic() + 30.0
        while thread.is_alive():
            assert time.monotonic() < end, "the page's side does not end"
            while self.calls:
                self.calls.pop(0)()
            step()
            self.client.spin_for(0.03)
        thread.join()
        return result[0]

    def close(self) -> None:
        self.server.close()
        self.client.executor.remove_node(self.observer)
        self.observer.destroy_node()


@pytest.fixture
def make_session(client: Client) -> Iterator[Callable[..., Session]]:
    made: list[Session] = []

    def make(**options: Any) -> Session:
        made.append(Session(client, DashboardOptions(port=0, **options)))
        return made[-1]

    yield make
    for session in made:
        session.close()


def make_camera(client: Client) -> Callable[[], None]:
    """Return what publishes an image, its result, and diagnostics."""
    client.node.declare_parameter("unused", 0)
    diagnostics = client.publisher(DiagnosticArray, "/diagnostics")
    images = client.publisher(Image, "/front/image_raw")
    results = client.publisher(Detection2DArray, "/front/detections")
    image = image_message(np.full((96, 128, 3), (255, 0, 0), np.uint8))
    detection = Detection2D(id="4")
    detection.bbox.center.position.x, detection.bbox.center.position.y = 64.0, 48.0
    detection.bbox.size_x, detection.bbox.size_y = 40.0, 20.0
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = "car", 0.75
    detection.results.append(hypothesis)

    def step() -> None:
        stamp = client.node.get_clock().now().to_msg()
        image.header.stamp = stamp
        diagnostics.publish(DiagnosticArray(status=STATUSES))
        images.publish(image)
        results.publish(Detection2DArray(header=image.header, detections=[detection]))

    return step


def test_a_page_gets_images_results_and_history(
    client: Client, make_session: Callable[..., Session]
) -> None:
    session = make_session()
    step = make_camera(client)
    assert session.server.address.startswith("http://127.0.0.1:")

    async def look() -> dict[str, Any]:
        seen: dict[str, Any] = {}
        async with (
            aiohttp.ClientSession() as web,
            web.ws_connect(session.server.address + "socket") as socket,
        ):
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    size = int.from_bytes(message.data[:4], "little")
                    about = json.loads(message.data[4 : 4 + size])
                    seen["image"] = about, message.data[4 + size :]
                else:
                    content = json.loads(message.data)
                    seen[content["kind"]] = content
                if {"welcome", "diagnostics", "detections", "image"} <= set(seen):
                    return seen
        return seen

    seen = session.run(look, step)
    about, jpeg = seen["image"]
    assert (about["camera"], about["width"], about["height"]) == ("front", 128, 96)
    import cv2

    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (48, 64, 3)
    assert picture[..., 0].min() > 240
    (box,) = seen["detections"]["boxes"]
    assert box == {
        **{"x": 44.0, "y": 38.0, "w": 40.0, "h": 20.0},
        **{"name": "car", "score": 0.75, "id": "4"},
    }
    assert seen["welcome"]["domain"] == "7"
    assert seen["diagnostics"]["devices"]["gpu"]["load"] == 0.25
    # Nobody looks any more: no image is subscribed to.
    client.spin_until(
        lambda: (
            [session.calls.pop(0)() for _ in session.calls[:]],
            client.node.count_subscribers("/front/image_raw") == 0,
        )[1],
        what="the end of the subscription",
    )


def test_settings_are_read_changed_and_refused(
    client: Client, make_session: Callable[..., Session]
) -> None:
    import rclpy

    camera = rclpy.create_node("front", context=client.context)
    bounds = ParameterDescriptor(
        floating_point_range=[FloatingPointRange(from_value=0.0, to_value=1.0)]
    )
    camera.declare_parameter("score_threshold", 0.3, bounds)
    for name, value in (("enabled", True), ("nms_threshold", 0.5), ("max_rate", 0.0)):
        camera.declare_parameter(name, value)
    client.executor.add_node(camera)
    session = make_session()
    step = make_camera(client)

    async def look() -> list[dict[str, Any]]:
        answers = []
        async with (
            aiohttp.ClientSession() as web,
            web.ws_connect(session.server.address + "socket") as socket,
        ):
            asked = False
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                content = json.loads(message.data)
                if content["kind"] == "diagnostics" and not asked:
                    asked = True  # the camera is known now
                    await socket.send_str("no json")
                    await socket.send_json({"camera": "front"})
                if "does not answer" in content.get("refusal", ""):  # on a busy machine
                    await socket.send_json({"camera": "front"})
                    continue
                if content["kind"] == "settings":
                    front = {"camera": "front", "name": "score_threshold"}
                    await socket.send_json({**front, "value": 0.6})
                    await socket.send_json({**front, "value": 7})
                    await socket.send_json({**front, "name": "model", "value": 1})
                if content["kind"] in ("settings", "changed"):
                    answers.append(content)
                if len(answers) == 4:
                    return answers
        return answers

    answers = session.run(look, step)
    settings = next(a for a in answers if a["kind"] == "settings")
    assert settings["values"]["enabled"] is True
    refusals = sorted(a["refusal"] for a in answers if a["kind"] == "changed")
    assert refusals[0] == ""
    assert any("cannot be changed here" in text for text in refusals)
    assert camera.get_parameter("score_threshold").value == 0.6
    client.executor.remove_node(camera)
    camera.destroy_node()


def test_who_may_look(client: Client, make_session: Callable[..., Session]) -> None:
    local = make_session().server
    public = make_session(host="0.0.0.0").server
    port = public.address.rpartition(":")[2].partition("/")[0]
    assert public.token in public.address
    assert not local.token

    async def statuses() -> list[int]:
        async with aiohttp.ClientSession() as web:

            async def status(url: str, **headers: str) -> int:
                async with web.get(url, headers=headers) as answer:
                    await answer.read()
                    return answer.status

            there = f"http://127.0.0.1:{port}"
            return [
                await status(local.address),
                await status(local.address + "static/app.js"),
                await status(local.address, Host="evil.example"),
                await status(local.address + "socket", Origin="http://evil.example"),
                await status(local.address + "static/../../../../core/errors.py"),
                await status(local.address + "static/" + 5000 * "a"),
                await status(local.address + "static/app.js%00"),
                await status(f"{there}/"),
                await status(f"{there}/socket"),
                await status(f"{there}/?token={public.token}"),
                await status(f"{there}/?token=\N{EURO SIGN}"),
                await status(local.address, Host="[bad"),
                await status(local.address, Origin="http://[bad"),
            ]

    assert asyncio.run(statuses()) == [
        200,
        200,
        403,
        403,
        404,
        404,
        404,
        403,
        403,
        200,
        403,
        400,
        400,
    ]


def test_a_port_that_is_taken_is_told(client: Client, make_session: Callable[..., Session]) -> None:
    port = int(make_session().server.address.rstrip("/").rpartition(":")[2])
    server = DashboardServer(DashboardOptions(port=port), "0", lambda call: None)
    with pytest.raises(ConfigurationError, match="set another `port`"):
        server.start()


def test_a_host_that_is_none_is_told() -> None:
    server = DashboardServer(DashboardOptions(host="a..b", port=0), "0", lambda call: None)
    with pytest.raises(ConfigurationError, match="set another `port` or `host`"):
        server.start()


@pytest.mark.parametrize("count", [300, 2000])
def test_a_page_that_takes_nothing_costs_little_and_does_not_hold_up_the_end(count: int) -> None:
    server = DashboardServer(DashboardOptions(port=0), "0", lambda call: None)
    server.start()
    port = int(server.address.rstrip("/").rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as page:
        page.sendall(
            f"GET /socket HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        assert b"101 Switching" in page.recv(1000)
        while not server._viewers:
            time.sleep(0.01)
        text = "x" * 100_000
        for _ in range(count):
            server.tell("diagnostics", {"text": text})
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < 20.0


def test_connections_without_a_request_are_ended_and_leave_room_for_a_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = replace(LIMITS, connections=8, answer_seconds=2.0)
    monkeypatch.setattr("yolox_trt.ros.dashboard.server.LIMITS", limits)
    server = DashboardServer(DashboardOptions(port=0), "0", lambda call: None)
    server.start()
    port = int(server.address.rstrip("/").rpartition(":")[2])
    request = b"GET /static/app.js HTTP/1.1\r\nHost: localhost\r\n"
    with contextlib.ExitStack() as held:

        def connect() -> socket.socket:
            return held.enter_context(socket.create_connection(("127.0.0.1", port), 20.0))

        page = connect()
        page.sendall(request + b"\r\n")
        assert page.recv(15) == b"HTTP/1.1 200 OK"
        silent = [connect() for _ in range(7)]
        silent[0].sendall(request)  # and no end of it
        while len(server._runner.server.connections) < 8:
            time.sleep(0.01)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            assert connect().recv(1) == b""  # one more than the limit
        assert time.monotonic() - began < 1.0
        for each in silent:
            with contextlib.suppress(ConnectionError):
                assert each.recv(1) == b""
        page = connect()
        page.sendall(request + b"\r\n")
        assert page.recv(15) == b"HTTP/1.1 200 OK"
    server.close()


def test_what_anybody_may_send_does_not_end_the_observer(client: Client) -> None:
    told: list[tuple[str, Any]] = []
    observer = Observer(
        lambda *what: told.append(what), rate=50.0, width=64, context=client.context
    )
    observer.watch(True)
    client.executor.add_node(observer)
    diagnostics = client.publisher(DiagnosticArray, "/diagnostics")
    results = client.publisher(Detection2DArray, "/front/detections")
    nan = Detection2D()
    nan.bbox.size_x = float("nan")

    def send(*statuses: Any) -> None:
        diagnostics.publish(DiagnosticArray(status=[STATUSES[0], *statuses]))
        results.publish(Detection2DArray(detections=[nan]))

    bad = entry("multi_camera: stream bad name", OK, "", "no topic!")
    client.spin_until(
        lambda: (send(bad, STATUSES[1]), [w for k, w in told if k == "detections"])[1],
        what="a result without its box",
    )
    assert next(w["boxes"] for k, w in told if k == "detections") == []
    # The type of the images is known once somebody publishes them; then the topic changes.
    image = image_message(np.zeros((8, 8, 3), np.uint8))
    for topic in ("/front/image_raw", "/front/other"):
        images = client.publisher(Image, topic)
        told.clear()
        front = entry("multi_camera: stream front", OK, "running", topic)
        client.spin_until(
            lambda images=images, front=front: (
                send(front),
                images.publish(image),
                any(k == "image" for k, _ in told),
            )[2],
            what=f"an image of {topic}",
        )
    client.spin_until(
        lambda: client.node.count_subscribers("/front/image_raw") == 0,
        what="the end of the subscription to the former topic",
    )
    client.spin_until(
        lambda: (send(), client.node.count_subscribers("/front/other") == 0)[1],
        what="the end of the subscription to a camera that was removed",
    )
    refusals: list[str] = []
    observer.change_setting("front", "score_threshold", 10**400, refusals.append)
    assert refusals == ["score_threshold cannot be that large"]
    client.executor.remove_node(observer)
    observer.destroy_node()


def test_the_page_in_a_browser(client: Client, make_session: Callable[..., Session]) -> None:
    api = pytest.importorskip("playwright.async_api", reason="needs pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    session = make_session()
    step = make_camera(client)

    async def look() -> dict[str, Any]:
        async with api.async_playwright() as tools:
            browser = await tools.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
            )
            page = await browser.new_page()
            problems: list[str] = []
            loaded: list[int] = []
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("response", lambda r: loaded.append(int(r.headers.get("content-length", 0))))
            await page.goto(session.server.address)
            await page.wait_for_selector('[data-camera="front"][data-boxes="1"]')
            figures = await page.inner_text(".figures")
            lane = await page.inner_text('.lane[data-device="gpu"] .load')
            # The server goes and comes back: the page finds it again.
            drawn = int(await page.get_attribute(".camera", "data-drawn"))
            await page.evaluate("socket.close()")
            while int(await page.get_attribute(".camera", "data-drawn")) < drawn + 3:
                await asyncio.sleep(0.1)
            await browser.close()
            return {"problems": problems, "bytes": sum(loaded), "figures": figures, "lane": lane}

    seen = session.run(look, step)
    assert seen["problems"] == []
    assert 5_000 < seen["bytes"] < 300_000
    assert "9.5 Hz" in seen["figures"]
    assert "3 stale" in seen["figures"]
    assert seen["lane"] == "25 %"
