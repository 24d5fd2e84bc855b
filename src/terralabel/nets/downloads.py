"""One file over HTTP: goes on where it stopped, waits for nobody long, and one process at a time.

A file is fetched into ``<name>.part``; beside it ``<name>.part.etag`` remembers which version of the file it is a part of.
"""

from __future__ import annotations

import errno
import http.client
import os
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from terralabel.errors import SettingsError, WeightsError

__all__ = ["Progress", "download", "hub_address", "hub_token", "one_process", "tag_file"]

#: Called with the bytes that are there and the bytes of the whole file (None when the server does not say).
Progress = Callable[[int, int | None], None]
#: Seconds to wait for a name, for a connection, and for the next byte.
CONNECT_TIMEOUT, READ_TIMEOUT = 5.0, 30.0
_BLOCK = 1 << 18


def download(
    address: str, part: Path, *, resume: bool = False, size: int | None = None, progress: Progress | None = None
) -> None:
    """Fetch `address` into `part`, after what it holds where that is a part of the same version of the file.

    `resume`: go on even where the server names no version, because the caller knows the sha256. `size`: bytes that the
    file must have; another is refused before it is fetched. Raises `urllib.error.URLError`, `OSError`, or `WeightsError` when
    the answer is no weights file or ends early.
    """
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise SettingsError(f"{address}: expected an http or https address; use --file for a file on this machine.")
    part.parent.mkdir(parents=True, exist_ok=True)
    have, tag = _held(part, resume)
    answer, have = _answer(address, have, tag)
    if answer is None:
        return
    with answer:
        _check_answer(address, answer, have, size)
        if not have:
            _remember(part, answer.headers.get("ETag"))
        _copy(address, answer, part, have, progress)


def _answer(address: str, have: int, tag: str | None) -> tuple[Any, int]:
    """The server's answer, and after how many of the bytes that are here it goes on; None when they are all."""
    if not have:
        return _open(address, 0, None), 0
    try:
        answer = _open(address, have, tag)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return None, have
        return _open(address, 0, None), 0
    if answer.status != 206:
        return answer, 0
    if answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        return answer, have
    answer.close()  # another part than was asked for
    return _open(address, 0, None), 0


def tag_file(part: Path) -> Path:
    """Where the version of the file is remembered that `part` is a part of."""
    return part.with_name(part.name + ".etag")


def _held(part: Path, resume: bool) -> tuple[int, str | None]:
    """Bytes of `part` that may be kept, and the version they are of, if the server named one."""
    note = tag_file(part)
    tag = note.read_text(encoding="utf-8").strip() if note.is_file() else None
    have = part.stat().st_size if part.is_file() and (resume or tag) else 0
    return have, tag if have else None


def _remember(part: Path, tag: str | None) -> None:
    """Only a strong tag says that two answers have the same bytes."""
    if tag and tag.startswith('"') and tag.isprintable():
        tag_file(part).write_text(tag, encoding="utf-8")
    else:
        tag_file(part).unlink(missing_ok=True)


def _open(address: str, have: int, tag: str | None) -> Any:
    request = _authorised(urllib.request.Request(address, headers={"User-Agent": "terralabel"}))  # noqa: S310 - http(s) only, see above
    if have:
        request.add_header("Range", f"bytes={have}-")
    if have and tag:
        request.add_header("If-Range", tag)
    try:
        return urllib.request.build_opener(_HTTP, _HTTPS, _Redirects).open(request, timeout=CONNECT_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()  # its page is not wanted, and the connection would stay open with it
        raise


def hub_address() -> str:
    """The Hugging Face hub, or what stands in for it (``HF_ENDPOINT``)."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def hub_token() -> str | None:
    """The token of a person's account on the hub: ``HF_TOKEN``, else the file where the hub's own client keeps it."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface"
        home = Path(os.environ.get("HF_HOME") or cache).expanduser()
        try:
            token = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
    return token if token.isascii() and token.isprintable() and token else None


def _authorised(request: urllib.request.Request) -> urllib.request.Request:
    """With the token where the hub itself is asked; never for another server, and not sent on where the hub redirects to one."""
    token = hub_token()
    if token and _server(request.full_url) == _server(hub_address()):
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request


def _server(address: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(address)
    return parts.scheme, parts.netloc.lower()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """The hub redirects renamed repositories to itself, and large files to other servers."""

    def redirect_request(self, *asked: Any) -> urllib.request.Request | None:
        request = super().redirect_request(*asked)
        return request if request is None else _authorised(request)


class _Patience:
    """A connection that gives up on a silent name server or address soon, on a slow answer later."""

    host: str
    port: int
    timeout: float | None
    sock: socket.socket

    def connect(self) -> None:
        _resolve(self.host, self.port)
        self.timeout = CONNECT_TIMEOUT
        super().connect()  # type: ignore[misc]
        self.sock.settimeout(READ_TIMEOUT)


class _Connection(_Patience, http.client.HTTPConnection):
    pass


class _SecureConnection(_Patience, http.client.HTTPSConnection):
    pass


class _HTTP(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, request)


class _HTTPS(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, request)


def _resolve(host: str, port: int) -> None:
    """Look the name up in a thread, since the system's own look-up cannot be told to give up."""
    failed: list[OSError] = []

    def look_up() -> None:
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(CONNECT_TIMEOUT)
    if thread.is_alive():
        raise TimeoutError(f"no name server answered for {host} within {CONNECT_TIMEOUT:.0f} s")
    if failed:
        raise failed[0]


def _check_answer(address: str, answer: Any, have: int, size: int | None) -> None:
    """Refuse what cannot be the file before fetching gigabytes of it."""
    kind, length = answer.headers.get_content_type(), answer.headers.get("Content-Length")
    if kind in ("text/html", "application/xhtml+xml"):
        raise WeightsError(
            f"{address}: a web page came instead of the weights (a proxy, a login?); fetch the file with a browser."
        )
    if size is not None and length is not None and have + int(length) != size:
        raise WeightsError(
            f"{address}: offers {have + int(length):,} bytes, expected {size:,}: another file; it was not fetched."
        )


def _copy(address: str, answer: Any, part: Path, have: int, progress: Progress | None) -> None:
    length = answer.headers.get("Content-Length")
    whole = have + int(length) if length is not None else None
    with part.open("ab" if have else "wb") as handle:
        try:
            while block := answer.read(_BLOCK):
                handle.write(block)
                have += len(block)
                if progress is not None:
                    progress(have, whole)
        except (TimeoutError, http.client.HTTPException, ConnectionError) as error:
            why = f"nothing came for {READ_TIMEOUT:.0f} s" if isinstance(error, TimeoutError) else "the connection broke"
            raise WeightsError(f"{address}: {why} after {have:,} bytes; run the same command to go on.") from error
    if whole is not None and have < whole:
        raise WeightsError(f"{address}: the connection ended after {have} of {whole} bytes; run the same command to go on.")


@contextmanager
def one_process(file: Path, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """While it lasts no other process is here for the same `file`; one that waits says so once.

    The lock goes with its holder, however that ends. Where files cannot be locked, there is none.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = file.with_name(file.name + ".lock")
    descriptor = _locked(lock, say)
    try:
        yield
    finally:
        if descriptor is not None:
            lock.unlink(missing_ok=True)
            os.close(descriptor)


def _locked(lock: Path, say: Callable[[str], None] | None) -> int | None:
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if say is not None:
                    say(f"{lock.stem}: another process is fetching it; waiting for it.")
                    say = None
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_there(lock, descriptor):
                return descriptor
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                os.close(descriptor)
                return None
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder has removed it meanwhile: this is a lock on nothing


def _is_there(lock: Path, descriptor: int) -> bool:
    try:
        return lock.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
