# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The web server of the dashboard: a page, and a WebSocket for each one who looks."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import WSMsgType, web

from yolox_trt.core.documents import parse_json
from yolox_trt.core.errors import ConfigurationError, YoloxTrtError
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.option import options_of
from yolox_trt.ros.dashboard.observer import Observer
from yolox_trt.ros.dashboard.options import LOCAL_HOSTS, DashboardOptions

_STATIC = Path(__file__).parent / "static"
#: What the page loads.
_FILES = ("app.js", "style.css")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self' ws: wss:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
#: Bytes of one message of a page.
_LONGEST_MESSAGE = 4096
_MOST_VIEWERS = 32
#: Messages that wait for a page, which is let go when there are more: it takes nothing.
_MOST_PENDING = 500
#: Seconds that a page gets to end its connection.
_CLOSE_LIMIT = 0.3
#: Addresses that stand for all of a computer's.
_EVERY_HOST = ("", "0.0.0.0", "::")
_NAMED = options_of(DashboardOptions)


class Viewer:
    """One page that looks. What it has not taken yet is overtaken by what is newer.

    Args:
        socket: the way to it.
        abort: ends the connection at once.
    """

    def __init__(self, socket: web.WebSocketResponse, abort: Callable[[], None]) -> None:
        self.socket = socket
        self.abort = abort
        self._pending: dict[tuple[str, str], str | bytes] = {}
        self._ready = asyncio.Event()

    def offer(self, kind: str, camera: str, content: str | bytes) -> None:
        """Have it sent; to be called in the server's thread."""
        # Answers and diagnostics are all sent, images and results of a camera the newest first.
        key = (kind, camera or str(len(self._pending)))
        self._pending.pop(key, None)
        self._pending[key] = content
        self._ready.set()
        if len(self._pending) > _MOST_PENDING:
            self._pending.clear()
            self.abort()  # it connects anew, and is told all again

    async def send(self) -> None:
        """Send until the socket closes."""
        while not self.socket.closed:
            await self._ready.wait()
            self._ready.clear()
            pending, self._pending = self._pending, {}
            for content in pending.values():
                if isinstance(content, bytes):
                    await self.socket.send_bytes(content)
                else:
                    await self.socket.send_str(content)


class _Refused(asyncio.Protocol):
    """Ends a connection as soon as it is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class DashboardServer:
    """Serves the page in a thread of its own.

    Args:
        options: where.
        domain: ROS domain, for the page.
        call: has a function called in the thread that spins the observer.

    Attributes:
        address: URL to open.
    """

    def __init__(
        self, options: DashboardOptions, domain: str, call: Callable[[Callable[[], None]], None]
    ) -> None:
        self.observer: Observer | None = None
        self.token = "" if options.host in LOCAL_HOSTS else secrets.token_urlsafe(16)
        self.address = ""
        self._options = options
        self._domain = domain
        self._call = call
        self._viewers: set[Viewer] = set()
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        # Connections that have sent no request so far.
        self._silent: dict[asyncio.BaseProtocol, asyncio.TimerHandle] = {}
        self._thread = threading.Thread(target=self._run, name="dashboard", daemon=True)
        self._failed: Exception | None = None
        self._started = threading.Event()

    def start(self) -> None:
        """Begin to serve.

        Raises:
            ConfigurationError: the address is taken, or not this computer's.
        """
        self._thread.start()
        self._started.wait()
        if self._failed is not None:
            raise ConfigurationError(
                f"{self._options.host}:{self._options.port} cannot be served "
                f"({getattr(self._failed, 'strerror', None) or self._failed})",
                fix=("set another ", _NAMED["port"], " or ", _NAMED["host"]),
            ) from self._failed

    def close(self) -> None:
        """End all connections, and the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def tell(self, kind: str, content: Any) -> None:
        """Send what the Observer tells to all pages; from any thread."""
        if not self._viewers:
            return
        if kind == "image":
            about, jpeg = content
            head = json.dumps(about).encode()
            message: str | bytes = len(head).to_bytes(4, "little") + head + jpeg
            camera = about["camera"]
        else:
            message = json.dumps({"kind": kind, **content}, allow_nan=False)
            camera = content.get("camera", "")
        self._loop.call_soon_threadsafe(self._offer_all, kind, camera, message)

    def _offer_all(self, kind: str, camera: str, message: str | bytes) -> None:
        for viewer in self._viewers:
            viewer.offer(kind, camera, message)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._open())
        except Exception as error:  # OSError; UnicodeError where the host is no name
            self._failed = error
        self._started.set()
        if self._failed is None:
            self._loop.run_forever()
        self._loop.run_until_complete(self._close())
        self._loop.close()

    async def _open(self) -> None:
        application = web.Application(client_max_size=_LONGEST_MESSAGE, middlewares=[self._guard])
        application.add_routes(
            [
                web.get("/", self._page),
                web.get("/socket", self._socket),
                web.get("/static/{name}", self._file),
            ]
        )
        self._runner = web.AppRunner(
            application, access_log=None, keepalive_timeout=LIMITS.answer_seconds
        )
        await self._runner.setup()
        host, port = self._options.host, self._options.port
        # Not a site of aiohttp's, which takes connections until the process has no files left.
        self._listener = await self._loop.create_server(self._connect, host, port)
        port = self._listener.sockets[0].getsockname()[1]
        host = socket.gethostname() if host in _EVERY_HOST else host
        shown = f"[{host}]" if ":" in host else host
        query = f"/?token={self.token}" if self.token else "/"
        self.address = f"http://{shown}:{port}{query}"

    async def _close(self) -> None:
        viewers = tuple(self._viewers)
        closing = [asyncio.ensure_future(viewer.socket.close()) for viewer in viewers]
        if closing:
            await asyncio.wait(closing, timeout=_CLOSE_LIMIT)
        for viewer in viewers:  # a page that is stopped takes nothing
            viewer.abort()
        for timer in self._silent.values():
            timer.cancel()
        if self._listener is not None:
            self._listener.close()
        if self._runner is not None:
            await self._runner.shutdown()
            if self._runner.server is not None:
                await self._runner.server.shutdown(_CLOSE_LIMIT)
            await self._runner.cleanup()

    def _connect(self) -> asyncio.BaseProtocol:
        """Return what handles a new connection: as long as it sends a request, and soon."""
        assert self._runner is not None and self._runner.server is not None
        server = self._runner.server
        if len(server.connections) >= LIMITS.connections:
            return _Refused()
        connection = server()
        self._silent[connection] = self._loop.call_later(
            LIMITS.answer_seconds, self._end_silent, connection
        )
        return connection

    def _end_silent(self, connection: asyncio.BaseProtocol) -> None:
        self._silent.pop(connection, None)
        transport = getattr(connection, "transport", None)
        if transport is not None:  # it may have ended by itself
            transport.abort()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Refuse who has not the token, and pages of other sites that a browser has open."""
        if timer := self._silent.pop(request.protocol, None):
            timer.cancel()
        origin = request.headers.get("Origin")
        try:
            host = urlsplit(f"//{request.host}").hostname or ""
            from_here = origin is None or urlsplit(origin).netloc == request.host
        except ValueError:  # no host
            raise web.HTTPBadRequest from None
        if self.token:
            given, token = (
                request.query.get("token", "").encode(errors="replace"),
                self.token.encode(),
            )
            if request.path in ("/", "/socket") and not hmac.compare_digest(given, token):
                raise web.HTTPForbidden(text="the address needs ?token=..., as it was printed\n")
        elif host not in LOCAL_HOSTS:
            raise web.HTTPForbidden(text="this page is for this computer alone\n")
        if not from_here:
            raise web.HTTPForbidden(text="from another site\n")
        response: web.StreamResponse = await handler(request)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    async def _page(self, request: web.Request) -> web.FileResponse:
        return web.FileResponse(_STATIC / "index.html")

    async def _file(self, request: web.Request) -> web.FileResponse:
        name = request.match_info["name"]
        if name not in _FILES:
            raise web.HTTPNotFound
        return web.FileResponse(_STATIC / name)

    @contextlib.asynccontextmanager
    async def _looking(self, viewer: Viewer) -> AsyncIterator[None]:
        """Have images subscribed to while somebody looks."""
        self._viewers.add(viewer)
        if len(self._viewers) == 1:
            self._observe(lambda observer: observer.watch(True))
        sender = asyncio.create_task(viewer.send())
        try:
            yield
        finally:
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError, RuntimeError):
                await sender
            self._viewers.discard(viewer)
            if not self._viewers:
                self._observe(lambda observer: observer.watch(False))

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        if len(self._viewers) >= _MOST_VIEWERS:
            raise web.HTTPServiceUnavailable(text=f"{_MOST_VIEWERS} look already\n")
        # Uncompressed: most of it are JPEGs.
        page = web.WebSocketResponse(heartbeat=10.0, max_msg_size=_LONGEST_MESSAGE, compress=False)
        await page.prepare(request)
        viewer = Viewer(page, partial(_abort, request))
        async with self._looking(viewer):
            self._observe(partial(self._welcome, viewer))
            async for message in page:
                if message.type is WSMsgType.TEXT:
                    self._on_request(viewer, message.data)
        return page

    def _welcome(self, viewer: Viewer, observer: Observer) -> None:
        history = observer.history
        content = {
            "samples": list(history.samples),
            "faults": list(history.faults),
            "domain": self._domain,
        }
        self._answer(viewer, "welcome", content)

    def _on_request(self, viewer: Viewer, text: str) -> None:
        """Do what a page asks for: to read or to change a camera's settings."""
        try:
            request = parse_json(text)
            camera, name, value = (request.get(key) for key in ("camera", "name", "value"))
            camera = str(camera)
        except (YoloxTrtError, ValueError, AttributeError):
            return
        if name is None:
            self._observe(
                lambda observer: observer.read_settings(
                    camera,
                    lambda values, refusal: self._answer(
                        viewer,
                        "settings",
                        {"camera": camera, "values": values, "refusal": refusal},
                    ),
                )
            )
            return
        self._observe(
            lambda observer: observer.change_setting(
                camera,
                str(name),
                value,
                lambda refusal: self._answer(
                    viewer, "changed", {"camera": camera, "name": name, "refusal": refusal}
                ),
            )
        )

    def _observe(self, work: Callable[[Observer], None]) -> None:
        observer = self.observer
        if observer is not None:
            self._call(lambda: work(observer))

    def _answer(self, viewer: Viewer, kind: str, content: dict[str, Any]) -> None:
        message = json.dumps({"kind": kind, **content}, allow_nan=False)
        self._loop.call_soon_threadsafe(viewer.offer, kind, "", message)


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
