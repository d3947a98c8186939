"""Who may ask for what: one wall around all routes.

A page of somebody else, open in the same browser, must not be able to read results here or to give
work. Browsers tell where a request comes from, and which name the address had: both are compared
with what this server is. Whoever is on another machine needs the token.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from guidxmage.serving.replies import JSON_TYPE, RefusedError, json_bytes

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

TOKEN_HEADER = "x-guid-xmage-token"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:[0-9]{1,5})?", re.I)
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(frozen=True)
class Policy:
    """hosts: names that the address may have, whatever the port (a tunnel may have another).
    addresses: any IP address will do as well; no foreign page can give itself one. token: needed
    where it is not None. cookie: what it is called. largest_body: path → bytes, and of all others
    `small_body`. patience: seconds that a body may pause for, and slowest that it may take at all.
    """

    hosts: tuple[str, ...] = LOOPBACK
    addresses: bool = False
    token: str | None = None
    cookie: str = "guid-xmage"
    largest_body: Mapping[str, int] = field(default_factory=dict)
    small_body: int = 2**16
    patience: float = 30.0
    slowest: float = 300.0

    def limit(self, path: str) -> int:
        """Bytes that the body of a request to this path may have."""
        matching = [n for pattern, n in self.largest_body.items() if re.fullmatch(pattern, path)]
        return max(matching, default=self.small_body)


class Guard:
    """Lets through what the policy allows; everything that is sent gets the same headers."""

    def __init__(self, app: App, policy: Policy) -> None:
        self.app, self.policy = app, policy

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        reply = _Reply(send)
        headers = _Headers(scope)
        try:
            self._check_origin(scope, headers)
            if self.policy.token is not None and await self._signed_in(scope, headers, reply):
                return
            body = self._limited(scope, headers, receive)
            await self.app(scope, body, reply)
        except RefusedError as error:
            await reply.refuse(error)
        except Exception as error:
            if reply.started:
                raise
            words = f"the server stumbled over this request ({type(error).__name__}); it goes on"
            await reply.refuse(RefusedError(500, words))

    def _check_origin(self, scope: Message, headers: _Headers) -> None:
        host = headers.single("host").lower()
        found = _HOST.fullmatch(host)
        if found is None or not self._is_own(found[1]):
            raise RefusedError(
                421, "this address is not one of this server's; use the one that it printed"
            )
        origin = headers.single("origin").lower()
        if origin and origin not in (f"http://{host}", f"https://{host}"):
            raise RefusedError(403, "requests from other pages are not answered")
        site = headers.single("sec-fetch-site")
        opened = scope["path"] == "/" and headers.single("sec-fetch-mode") == "navigate"
        if site in ("cross-site", "same-site") and not opened:
            raise RefusedError(403, "requests from other pages are not answered")

    def _is_own(self, name: str) -> bool:
        if name in self.policy.hosts:
            return True
        if not self.policy.addresses:
            return False
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    async def _signed_in(self, scope: Message, headers: _Headers, reply: _Reply) -> bool:
        """Whether the answer was given: a cookie for the token in the address. Raises."""
        given = [headers.single(TOKEN_HEADER), headers.cookie(self.policy.cookie)]
        if any(self._is_token(one) for one in given if one):
            return False
        asked = parse_qs(scope.get("query_string", b"").decode("latin-1"), max_num_fields=8)
        if scope["path"] != "/" or not self._is_token("".join(asked.get("token", [""])[:1])):
            raise RefusedError(
                401, "the token is missing or wrong; open the address that the server printed"
            )
        cookie = f"{self.policy.cookie}={self.policy.token}; Path=/; HttpOnly; SameSite=Strict"
        fields = {"location": "/", "set-cookie": cookie}
        await reply.whole(303, b"", fields)
        return True

    def _is_token(self, given: str) -> bool:
        wanted = self.policy.token or ""
        return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())

    def _limited(self, scope: Message, headers: _Headers, receive: Receive) -> Receive:
        """The body, counted as it comes. Raises at once where its stated length is too much."""
        limit = self.policy.limit(scope["path"])
        too_large = RefusedError(413, f"this is more than the {_size(limit)} that are taken")
        stated = headers.single("content-length")
        if stated and (not stated.isdecimal() or len(stated) > 18 or int(stated) > limit):
            raise too_large
        count, complete = 0, False
        until = time.monotonic() + self.policy.slowest

        async def counted() -> Message:
            nonlocal count, complete
            if complete:
                return await receive()
            left = min(self.policy.patience, until - time.monotonic())
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.001))
            except asyncio.TimeoutError:
                raise RefusedError(408, "the rest of the request did not come") from None
            count += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if count > limit:
                raise too_large
            return message

        return counted


class _Headers:
    """The headers of a request that count here."""

    def __init__(self, scope: Message) -> None:
        self._all: list[tuple[bytes, bytes]] = list(scope["headers"])

    def single(self, name: str) -> str:
        """The header; "" where it is missing, and "?" where it is there twice."""
        found = [value for key, value in self._all if key.lower() == name.encode()]
        return found[0].decode("latin-1").strip() if len(found) == 1 else "?" if found else ""

    def cookie(self, name: str) -> str:
        """One cookie; "" where it is missing."""
        try:
            cookies = SimpleCookie(self.single("cookie"))
        except CookieError:
            return ""
        return cookies[name].value if name in cookies else ""


class _Reply:
    """Sends, with the headers that everything has."""

    def __init__(self, send: Send) -> None:
        self._send, self.started = send, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            own = {key.decode("latin-1").lower() for key, _ in message.get("headers", [])}
            more = {"cache-control": "no-store", **SECURITY_HEADERS}
            added = [(k.encode(), v.encode()) for k, v in more.items() if k not in own]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await self._send(message)

    async def refuse(self, error: RefusedError) -> None:
        """The sentence, unless something else has been begun."""
        if not self.started:
            body = json_bytes({"error": str(error)})
            await self.whole(error.status, body, {"content-type": JSON_TYPE})

    async def whole(self, status: int, body: bytes, fields: Mapping[str, str]) -> None:
        """A short answer."""
        headers = {**fields, "content-length": str(len(body))}
        raw = [(key.encode(), value.encode("latin-1")) for key, value in headers.items()]
        await self({"type": "http.response.start", "status": status, "headers": raw})
        await self({"type": "http.response.body", "body": body})


def _size(count: int) -> str:
    return f"{count / 2**20:.3g} MB" if count >= 2**20 else f"{count / 2**10:.3g} kB"
