"""Where the page is found: address, token, the server's life from start to Ctrl-C."""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import uvicorn

from guidxmage.errors import InputError
from guidxmage.serving.guard import LOOPBACK, Guard, Policy

PORT = 8765
_TRIED = 50
_CONNECTIONS = 300
_GRACE = 2


@dataclass(frozen=True)
class Place:
    """A bound socket and what it is called. token: None on this machine's own address."""

    socket: socket.socket
    host: str
    port: int
    token: str | None

    @property
    def url(self) -> str:
        """What to open, the token included."""
        host = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        shown = f"[{host}]" if ":" in host else host
        query = "" if self.token is None else f"?token={self.token}"
        return f"http://{shown}:{self.port}/{query}"

    def policy(self, largest_body: dict[str, int]) -> Policy:
        """What the guard lets through here."""
        own = f"[{self.host}]" if ":" in self.host else self.host
        names = {*LOOPBACK, own.lower()}
        everywhere = not is_loopback(self.host)
        if everywhere:
            names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        return Policy(
            hosts=tuple(names),
            addresses=everywhere,
            token=self.token,
            cookie=f"guid-xmage-{self.port}",  # cookies are shared by all ports of a host
            largest_body=largest_body,
        )


def place_at(host: str, port: int | None, *, token: bool = False) -> Place:
    """A socket bound there. port: None for the usual one or the next that is free, 0 for any.

    token: have one also where only this machine can reach the page, which others may use.
    Raises InputError where there is no such host, or the port is taken.
    """
    tried = [port] if port is not None else range(PORT, PORT + _TRIED)
    for number in tried:
        try:
            bound = _bound(host, number)
        except InputError:
            if number == tried[-1]:
                raise
        else:
            needed = token or not is_loopback(host)
            made = secrets.token_urlsafe(24) if needed else None
            return Place(bound, host, int(bound.getsockname()[1]), made)
    raise AssertionError


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bound(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise InputError(f"--host {host} is not an address of this machine") from None
    family, kind, protocol, _, address = found[0]
    made = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # else a port that was left a moment ago counts as taken
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(128)
    except OSError as error:
        made.close()
        if isinstance(error, PermissionError):
            raise InputError(f"port {port} may not be used; choose one from 1024 on") from None
        taken = f"port {port} of {host} is taken; choose another with --port, or leave it out"
        at = f"--host {host} is not an address of this machine"
        in_use = error.errno in (48, 98, 10013, 10048)  # macOS, Linux, Windows
        raise InputError(taken if in_use else at) from None
    return made


def server_of(app: Guard) -> uvicorn.Server:
    """A server that logs nothing and believes no proxy."""
    for name in ("asyncio", "python_multipart", "multipart"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config: dict[str, Any] = {
        "http": "h11",
        "loop": "asyncio",
        "ws": "none",
        "lifespan": "off",
        "log_config": None,
        "log_level": "critical",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "limit_concurrency": _CONNECTIONS,
        "timeout_graceful_shutdown": _GRACE,
    }
    return uvicorn.Server(uvicorn.Config(app, **config))


def serve(app: Guard, place: Place, started: Callable[[], None]) -> None:
    """Serve until Ctrl-C. started: called in a thread as soon as requests are answered."""
    server = server_of(app)

    def tell() -> None:
        while not server.started and not server.should_exit:
            time.sleep(0.02)
        if server.started:
            started()

    threading.Thread(target=tell, daemon=True).start()
    try:
        server.run(sockets=[place.socket])
    except KeyboardInterrupt:  # raised again by the server when it has ended
        pass
    finally:
        place.socket.close()


def open_browser(url: str) -> None:
    """Where there is a screen; never a browser in the terminal."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform in ("darwin", "win32") or any(map(os.environ.get, screens)):
        try:
            webbrowser.open(url)
        except (webbrowser.Error, OSError):
            return
