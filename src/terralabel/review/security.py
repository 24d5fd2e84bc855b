"""Who may ask, and what a browser may do with the answer. Every request passes here before anything else looks at it.

- Only the host that was given is served (the `Host` header), so that a foreign name that resolves to this machine reads nothing.
- What changes something must come from a page of ours (`Origin`, `Sec-Fetch-Site`) and be JSON, which no form of another site can send.
- Beyond loopback a token is needed: once in the address, then in a cookie that other sites cannot use.
- Bodies are small; addresses are short.
- No script runs but ours (`Content-Security-Policy` without inline script), and no other site may frame or embed a page.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

__all__ = ["MAX_BODY", "Guard", "House", "is_loopback"]

#: Bytes of a request's body and of its address.
MAX_BODY, MAX_ADDRESS = 1 << 16, 4096
_COOKIE = "terralabel"
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def is_loopback(host: str) -> bool:
    """True for a host that only this machine reaches."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class House:
    """Where the page is served: `host` and `port` as bound; `token` is "" on loopback, where none is needed."""

    host: str
    port: int
    token: str = field(repr=False, default="")

    @classmethod
    def at(cls, host: str, port: int) -> House:
        """With a token of its own where others reach it."""
        return cls(host, port, "" if is_loopback(host) else secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        """The address to open."""
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104
        shown = f"[{shown}]" if ":" in shown and not shown.startswith("[") else shown
        return f"http://{shown}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def answers_to(self, header: str) -> bool:
        """True for a `Host` header that names this house: its host, loopback's names, or, bound to all, any address of the machine."""
        name, _, port = header.rpartition(":") if ":" in header.rpartition("]")[2] else (header, "", "80")
        if port != str(self.port) or not name:
            return False
        if is_loopback(self.host):
            return name.lower() in (*_LOOPBACK, self.host)
        if self.host in ("0.0.0.0", "::"):  # noqa: S104
            try:
                ipaddress.ip_address(name.strip("[]"))
            except ValueError:
                return name.lower() == "localhost"
            return True
        return name.lower().strip("[]") == self.host.lower().strip("[]") or name.lower() in _LOOPBACK


class Guard:
    """ASGI middleware: what is written above, around an app."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], house: House) -> None:
        self.app, self.house = app, house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = _headers(scope)
        refusal = self._refusal(scope, headers)
        if refusal is None and (location := self._welcome(scope)):
            await _answer(send, 303, "", {"location": location, "set-cookie": self._cookie()})
        elif refusal is not None:
            await _answer(send, *refusal)
        else:
            await self._served(scope, receive, send, headers)

    # ---------------------------------------------------------------------------------------------------- who asks

    def _refusal(self, scope: Scope, headers: Mapping[str, list[str]]) -> tuple[int, str] | None:
        hosts = headers.get("host", [])
        if len(hosts) != 1 or not self.house.answers_to(hosts[0]):
            return 403, f"This is not the page of that host; open {self.house.url.partition('?')[0]}"
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > MAX_ADDRESS:
            return 414, "The address is too long."
        if self.house.token and not self._known(scope, headers):
            return 403, "Open the address that `terralabel review` printed: its token lets you in."
        if scope["method"] in ("GET", "HEAD"):
            return None
        if scope["method"] != "POST":
            return 405, "Only GET and POST."
        return self._foreign(hosts[0], headers)

    def _foreign(self, host: str, headers: Mapping[str, list[str]]) -> tuple[int, str] | None:
        origins, sites = headers.get("origin", []), headers.get("sec-fetch-site", [])
        if any(origin != f"http://{host}" for origin in origins) or any(s not in ("same-origin", "none") for s in sites):
            return 403, "Changes come from this page only, not from another site."
        if headers.get("content-type", [""])[0].partition(";")[0].strip().lower() != "application/json":
            return 415, "Send JSON (Content-Type: application/json)."
        if headers.get("content-length", ["0"])[0].isdigit() and int(headers.get("content-length", ["0"])[0]) > MAX_BODY:
            return 413, f"At most {MAX_BODY:,} bytes at once."
        return None

    def _known(self, scope: Scope, headers: Mapping[str, list[str]]) -> bool:
        given = [value for name, value in _query(scope) if name == "token"]
        for line in headers.get("cookie", []):
            try:
                given += [morsel.value for name, morsel in SimpleCookie(line).items() if name == _COOKIE]
            except CookieError:
                continue
        return any(secrets.compare_digest(value.encode(), self.house.token.encode()) for value in given)

    def _welcome(self, scope: Scope) -> str:
        """Where to go on without the token in the address, for a request that brought it; "" for others."""
        query = _query(scope)
        if scope["method"] != "GET" or not any(name == "token" for name, _ in query):
            return ""
        rest = urlencode([pair for pair in query if pair[0] != "token"])
        path = scope["path"] if scope["path"].isascii() and not scope["path"].startswith("//") else "/"
        return path + (f"?{rest}" if rest else "")

    def _cookie(self) -> str:
        return f"{_COOKIE}={self.house.token}; Path=/; HttpOnly; SameSite=Strict"

    # ----------------------------------------------------------------------------------------------- what they get

    async def _served(self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, list[str]]) -> None:
        body = b""
        if scope["method"] == "POST":
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > MAX_BODY:
                    await _answer(send, 413, f"At most {MAX_BODY:,} bytes at once.")
                    return
        given = False

        async def whole() -> MutableMapping[str, Any]:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def dressed(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                extra = [(k.encode(), v.encode()) for k, v in _HEADERS.items()]
                if b"cache-control" not in there:
                    extra.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        await self.app(scope, whole if scope["method"] == "POST" else receive, dressed)


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _query(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl((scope.get("query_string") or b"").decode("latin-1"), keep_blank_values=True)


async def _answer(send: Send, status: int, text: str, extra: Mapping[str, str] | None = None) -> None:
    headers = {**_HEADERS, "content-type": "text/plain; charset=utf-8", "cache-control": "no-store", **(extra or {})}
    raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    body = text.encode()
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
