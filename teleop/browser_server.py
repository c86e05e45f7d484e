"""The page of the browser device, served by a process of its own: `python -m armflow.teleop.browser_server FD`.

FD is a socket that listens already. The first line on stdin is the token; every later one changes what the page shows, in
JSON (`{"episode": "running"}`, `{"frame": NAME, "jpeg": BASE64}`). On stdout, a line of JSON each: `{"held": [], "stamp": s}`
is a beat of the tab that drives, `{"held": null}` that none does. It judges nothing, and ends with its stdin.

Who may: pages of this server only, and only under the token, which is the beginning of every address. Other users of the
computer do not know it, and pages of other servers are refused by host and origin even if they do: NiceGUI's own connection
lets any origin in, as do websockets in general.
"""

import base64
import json
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Response, WebSocket
from nicegui import app, ui
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

HOSTS = {"127.0.0.1", "localhost"}  # with any port: it is another one at the near end of a tunnel
SHOW_S = 0.1  # between two looks at what is to be shown

Tell = Callable[[Mapping[str, Any]], None]


class SamePage:
    """Refuses whoever asks for another host, as a page does whose name was made to mean 127.0.0.1, and pages of others."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app  # NiceGUI looks for this name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not _same_page(Headers(scope=scope), scope["type"]):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})  # before it is accepted: HTTP 403
            else:
                await PlainTextResponse("only for pages of this server", 403)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _same_page(headers: Headers, kind: str) -> bool:
    host, origin = headers.get("host", ""), headers.get("origin")
    try:
        local = urlsplit(f"//{host}").hostname in HOSTS
    except ValueError:
        return False
    return local and (origin == f"http://{host}" or (origin is None and kind == "http"))


class Tabs:
    """Connections of pages, and the one that drives: where that was asked for last."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._driver: WebSocket | None = None

    async def serve(self, tab: WebSocket) -> None:
        """Until the page is gone, or says what no page of ours says."""
        await tab.accept()
        try:
            while True:
                await self._take_in(await tab.receive_json(), tab)
        except (WebSocketDisconnect, RuntimeError):
            pass  # gone: closed, or while it was answered
        except (ValueError, KeyError, TypeError):
            with suppress(RuntimeError):
                await tab.close(1008)
        finally:
            if tab is self._driver:
                self._driver = None
                self._tell({"held": None})

    async def _take_in(self, message: Mapping[str, Any], tab: WebSocket) -> None:
        if message.get("take"):
            before, self._driver = self._driver, tab
            self._tell({"held": None})
            if before is not None and before is not tab:
                with suppress(WebSocketDisconnect, RuntimeError):
                    await before.send_json({"drives": False})
        elif tab is self._driver:
            stamp, held = float(message["stamp"] or 0.0), [str(key) for key in message["held"]]
            if math.isfinite(stamp):
                self._tell({"held": held, "stamp": stamp})
        answer = {"drives": tab is self._driver, "stamp": time.monotonic(), "sent_ms": message["sent_ms"]}
        await tab.send_json(answer)


@dataclass
class Shown:
    """What pages show besides what they know themselves."""

    engaged: bool = False
    trusted: bool = True
    gripper: float = 1.0
    episode: str = ""
    live: bool = False  # the episode is running: images are of now
    frames: dict[str, tuple[int, bytes]] = field(default_factory=dict)  # by camera: number, JPEG

    def take(self, message: Mapping[str, Any]) -> None:
        if "frame" in message:
            camera = message["frame"]
            number, _ = self.frames.get(camera, (0, b""))
            self.frames[camera] = (number + 1, base64.b64decode(message["jpeg"]))
        else:
            for name, value in message.items():
                setattr(self, name, value)

    @property
    def state(self) -> str:
        return "engaged" if self.engaged else "free" if self.trusted else "locked"


STATES = {"engaged": "Engaged", "free": "Released", "locked": "Let go of all keys"}
ENDS = (("enter", "✓", "worked", "enter"), ("x", "✗", "failed", "x"), ("esc", "⌫", "discard", "esc"))
MOVES = (
    ("q", "↺", "turn"), ("w", "↑", "away"), ("e", "↻", "turn"), ("r", "⤒", "up"),
    ("a", "←", "left"), ("s", "↓", "back"), ("d", "→", "right"), ("f", "⤓", "down"),
)  # fmt: skip


def build(shown: Shown) -> None:
    """One tab. Keys lie on the screen as on a keyboard; `browser_page.js` listens to them and to the real ones."""
    ui.add_css(Path(__file__).with_name("browser_page.css"))
    ui.add_body_html(f"<script>{Path(__file__).with_name('browser_page.js').read_text(encoding='utf-8')}</script>")
    ui.context.client.content.classes("page")
    with ui.element("header") as header:
        state = ui.label().props("id=state")
        episode = ui.label().props("id=episode")
        with ui.element("div").props("id=quiet"):
            gripper = ui.label()
            ui.label().props("id=link")
        with ui.element("div").props("id=ends"):
            for end in ENDS:
                _key(*end)
    with ui.element("main"):
        _key("shift", "●", "hold to move", "shift")
        cameras = ui.element("div").props("id=cameras")
        with ui.element("div").props("id=moves"):
            for key, sign, meaning in MOVES:
                _key(key, sign, meaning, key)
            _key("space", "⇔", "gripper", "space")
    images: dict[str, ui.element] = {}

    def show() -> None:
        state.set_text(STATES[shown.state])
        episode.set_text(shown.episode)
        gripper.set_text("gripper open" if shown.gripper > 0.5 else "gripper closed")
        _set(header, "data-state", shown.state)
        _set(cameras, "data-live", "yes" if shown.live else "no")
        for camera, (number, _) in list(shown.frames.items()):
            if camera not in images:
                with cameras, ui.element("figure"):
                    images[camera] = ui.element("img").props(f'alt="{camera}"')
                    ui.label(camera)
            _set(images[camera], "data-frame", f"camera/{camera}?{number}")

    show()
    ui.timer(SHOW_S, show)


def _key(key: str, sign: str, meaning: str, label: str) -> None:
    """A button that is held, as a key is."""
    with ui.element("button").props(f'type=button tabindex=-1 data-key={key} aria-label="{meaning}"'):
        ui.label(sign).classes("sign")
        ui.label(meaning).classes("meaning")
        ui.label(label).classes("label")


def _set(element: ui.element, name: str, value: str) -> None:
    if element.props.get(name) != value:
        element.props[name] = value
        element.update()


def serve(token: str, listening: socket.socket, shown: Shown, tell: Tell) -> None:
    """Until the process ends."""
    site = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    tabs = Tabs(tell)

    @site.websocket(f"/{token}/drive")
    async def _drive(tab: WebSocket) -> None:
        await tabs.serve(tab)

    @site.get(f"/{token}/camera/{{name}}")
    def _camera(name: str) -> Response:
        if name not in shown.frames:
            return Response(status_code=404)
        return Response(shown.frames[name][1], media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    ui.page("/")(lambda: build(shown))
    app.on_startup(lambda: tell({"ready": True}))
    ui.run_with(
        site, mount_path=f"/{token}", title="armflow", dark=True, tailwind=False, show_welcome_message=False,
    )  # fmt: skip
    cfg = uvicorn.Config(SamePage(site), access_log=False, log_level="warning", ws_max_size=1 << 20, lifespan="on")
    uvicorn.Server(cfg).run(sockets=[listening])


def main() -> None:
    # Whatever else writes to stdout goes to stderr: the pipe is for beats.
    beats = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    token, shown = sys.stdin.readline().strip(), Shown()

    def listen() -> None:
        for line in sys.stdin:
            shown.take(json.loads(line))
        os._exit(0)  # the session is over, or was killed

    threading.Thread(target=listen, daemon=True).start()
    listening = socket.socket(fileno=int(sys.argv[1]))
    serve(token, listening, shown, lambda message: print(json.dumps(message), file=beats, flush=True))


if __name__ == "__main__":
    main()
