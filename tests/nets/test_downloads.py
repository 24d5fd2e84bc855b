"""Downloads that break, stall, are repeated or meet a proxy. Only 127.0.0.1 is ever connected to."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from terralabel.errors import WeightsError
from terralabel.nets import downloads, weights
from terralabel.nets.downloads import one_process, tag_file


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


CONTENT = npz(w=np.arange(150_000.0))
NEWER = npz(w=np.ones(150_000))


class Server(BaseHTTPRequestHandler):
    """Serves `content` under `etag`, as the attributes say."""

    content, etag, ranges, stop_after, stall, delay = CONTENT, '"one"', True, None, 0.0, 0.0
    status, kind, shift = None, "application/octet-stream", 0
    asked: list[tuple[str | None, str | None]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        cls = type(self)
        span, condition = self.headers.get("Range"), self.headers.get("If-Range")
        cls.asked.append((span, condition))
        time.sleep(cls.delay)
        if cls.status is not None:
            return self.send_error(cls.status)
        start = int(span.removeprefix("bytes=").rstrip("-")) if span and cls.ranges and condition in (None, cls.etag) else 0
        if start >= len(cls.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(cls.content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", cls.kind)
        self.send_header("Content-Length", str(len(cls.content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start + cls.shift}-{len(cls.content) - 1}/{len(cls.content)}")
        if cls.etag:
            self.send_header("ETag", cls.etag)
        self.end_headers()
        self.wfile.write(cls.content[start : cls.stop_after])
        self.wfile.flush()
        time.sleep(cls.stall)
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[type[Server], str]]:
    handler = type("Handler", (Server,), {"asked": []})
    listener = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    listener.daemon_threads = True
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
    thread.start()
    yield handler, f"http://127.0.0.1:{listener.server_port}/w"
    listener.shutdown()
    thread.join()
    listener.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; "sure" has its sha256 and size in the catalogue, "unsure" neither, "gated" wants a licence accepted."""
    monkeypatch.setenv("TERRALABEL_CACHE", str(tmp_path / "cache"))
    for name in ("TERRALABEL_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    sure = weights.Model("sure", "s.npz", "tests", "MIT", "nowhere", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    unsure = replace(sure, name="unsure", file="u.npz", sha256=None, size=None)
    gated = replace(sure, name="gated", file="g.npz", gated=True, url="https://hub/g", source="https://hub/page")
    monkeypatch.setattr(weights, "CATALOGUE", (sure, unsure, gated))
    return tmp_path / "cache"


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


@pytest.mark.parametrize("name", ["sure", "unsure"])
def test_an_interrupted_download_goes_on_where_it_stopped(cache: Path, server, name: str) -> None:
    handler, address = server
    handler.stop_after = 400_000
    with pytest.raises(WeightsError, match=rf"ended after 400000 of {len(CONTENT)} bytes; run the same command to go on"):
        weights.pull(name, url=address)
    file = f"{name[0]}.npz"
    assert names(cache) == [f"{file}.part", f"{file}.part.etag"]
    handler.stop_after = None
    seen: list[tuple[int, int | None]] = []
    report = weights.pull(name, url=address, progress=lambda done, whole: seen.append((done, whole)))
    assert handler.asked[-1] == ("bytes=400000-", '"one"')
    assert report.path.read_bytes() == CONTENT and names(cache) == [file, f"{file}.sha256"]
    assert seen[0][0] > 400_000 and seen[-1] == (len(CONTENT), len(CONTENT))


@pytest.mark.parametrize(("ranges", "etag"), [(False, '"one"'), (True, None), (False, None), (True, 'W/"weak"')])
def test_servers_that_know_no_ranges_or_versions(cache: Path, server, ranges: bool, etag: str | None) -> None:
    handler, address = server
    handler.ranges, handler.etag, handler.stop_after = ranges, etag, 400_000
    for name in ("sure", "unsure"):
        with pytest.raises(WeightsError, match="ended after"):
            weights.pull(name, url=address)
    handler.stop_after = None
    assert weights.pull("sure", url=address).path.read_bytes() == CONTENT
    assert handler.asked[-1][0] == "bytes=400000-"
    assert weights.pull("unsure", url=address).path.read_bytes() == CONTENT
    assert handler.asked[-1][0] == ("bytes=400000-" if etag == '"one"' else None)


def test_another_version_on_the_server_is_fetched_from_its_beginning(cache: Path, server) -> None:
    handler, address = server
    handler.stop_after = 400_000
    with pytest.raises(WeightsError, match="ended after"):
        weights.pull("unsure", url=address)
    handler.stop_after, handler.content, handler.etag = None, NEWER, '"two"'
    assert weights.pull("unsure", url=address).path.read_bytes() == NEWER
    assert handler.asked[-1] == ("bytes=400000-", '"one"')


def test_a_part_that_is_whole_or_too_long(cache: Path, server) -> None:
    handler, address = server
    cache.mkdir()
    part = cache / "s.npz.part"
    part.write_bytes(CONTENT)
    assert weights.pull("sure", url=address).path.read_bytes() == CONTENT and len(handler.asked) == 1
    (cache / "s.npz").unlink()
    part.write_bytes(CONTENT + b"more")
    tag_file(part).write_text('"one"')
    assert weights.pull("sure", url=address).path.read_bytes() == CONTENT
    assert [span for span, _ in handler.asked[1:]] == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_part_of_something_else_is_not_kept(cache: Path, server) -> None:
    _, address = server
    cache.mkdir()
    (cache / "s.npz.part").write_bytes(bytes(1000))
    with pytest.raises(WeightsError, match="expected"):
        weights.pull("sure", url=address)
    assert names(cache) == []
    assert weights.pull("sure", url=address).path.read_bytes() == CONTENT


def test_a_stalled_server_is_left_and_the_part_kept(cache: Path, server, monkeypatch: pytest.MonkeyPatch) -> None:
    handler, address = server
    monkeypatch.setattr(downloads, "READ_TIMEOUT", 0.3)
    handler.stop_after, handler.stall = 400_000, 2.0
    started = time.monotonic()
    with pytest.raises(WeightsError, match=r"nothing came for .* run the same command to go on"):
        weights.pull("sure", url=address)
    assert time.monotonic() - started < 1.5
    have = (cache / "s.npz.part").stat().st_size
    assert 0 < have <= 400_000
    handler.stop_after, handler.stall = None, 0.0
    assert weights.pull("sure", url=address).path.read_bytes() == CONTENT


def test_what_is_no_weights_file_is_refused_before_it_is_fetched(cache: Path, server) -> None:
    handler, address = server
    handler.kind, handler.content = "text/html; charset=utf-8", b"<html>log in</html>"
    with pytest.raises(WeightsError, match="a web page came instead of the weights"):
        weights.pull("sure", url=address)
    handler.kind = "application/octet-stream"
    with pytest.raises(WeightsError, match=f"offers 19 bytes, expected {len(CONTENT):,}"):
        weights.pull("sure", url=address)
    with pytest.raises(WeightsError, match=r"u\.npz: a web page"):
        weights.pull("unsure", url=address)
    handler.status = 403
    with pytest.raises(WeightsError) as caught:
        weights.pull("gated", url=address)
    assert all(word in str(caught.value) for word in ("403", "account", "accept its licence at https://hub/page", "--file"))
    assert names(cache) == []


def test_no_network_fails_at_once_with_the_way_out(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "CONNECT_TIMEOUT", 0.3)

    def answers(*_: object, **__: object) -> list:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def sleeps(*_: object, **__: object) -> list:
        time.sleep(2)
        return []

    with socket.socket() as deaf:  # a full queue: further connections are neither taken nor refused
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(deaf.getsockname())
        hole = "http://{}:{}/w".format(*deaf.getsockname())
        cases = [("http://127.0.0.1:9/w", None, "refused"), (hole, None, "timed out")]
        cases += [
            ("http://weights.invalid/w", answers, "not known"),
            ("http://weights.invalid/w", sleeps, "no name server answered"),
        ]
        for address, look_up, why in cases:
            with monkeypatch.context() as patch:
                if look_up is not None:
                    patch.setattr(downloads.socket, "getaddrinfo", look_up)
                started = time.monotonic()
                with pytest.raises(WeightsError, match=why) as caught:
                    weights.pull("sure", url=address)
                assert time.monotonic() - started < 1
            assert "--file PATH" in str(caught.value) and "\n" not in str(caught.value) and "s.npz" in str(caught.value)
        for each in waiting:
            each.close()
    assert names(cache) == []


def test_a_server_that_does_not_speak_http(cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def babble() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"\x00\x01 nonsense\r\n\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(WeightsError, match="--file PATH"):
            weights.pull("sure", url=f"http://127.0.0.1:{listener.getsockname()[1]}/w")
        thread.join()


def test_of_two_the_second_waits_and_finds_it_done(cache: Path, server) -> None:
    handler, address = server
    handler.delay = 0.5
    said: list[str] = []
    reports = []
    first = threading.Thread(target=lambda: reports.append(weights.pull("sure", url=address)))
    first.start()
    while not handler.asked:
        time.sleep(0.01)
    second = weights.pull("sure", url=address, say=said.append)
    first.join()
    assert len(handler.asked) == 1 and [second.sha256] == [report.sha256 for report in reports]
    assert said == ["s.npz: another process is fetching it; waiting for it."]
    assert names(cache) == ["s.npz", "s.npz.sha256"]


def test_two_processes_at_once_fetch_it_once(cache: Path, server) -> None:
    handler, address = server
    handler.delay = 0.3
    program = (
        "import sys; from terralabel.nets import weights\n"
        "weights.CATALOGUE = (weights.Model('sure', 's.npz', '', '', '', None, sys.argv[2], sys.argv[1]),)\n"
        "print(weights.pull('sure', say=print).sha256)"
    )
    digest = hashlib.sha256(CONTENT).hexdigest()
    command = [sys.executable, "-c", program, address, digest]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=60)[0].splitlines() for process in both]
    assert [lines[-1] for lines in said] == [digest] * 4 and len(handler.asked) == 1
    assert names(cache) == ["s.npz", "s.npz.sha256"]


def test_a_server_that_sends_another_part_is_asked_for_the_whole(cache: Path, server) -> None:
    handler, address = server
    handler.stop_after = 400_000
    with pytest.raises(WeightsError, match="ended after"):
        weights.pull("sure", url=address)
    handler.stop_after, handler.shift = None, 5
    assert weights.pull("sure", url=address).path.read_bytes() == CONTENT
    assert [span for span, _ in handler.asked[1:]] == ["bytes=400000-", None]


def test_one_after_another_whoever_asks(tmp_path: Path) -> None:
    """Twelve threads, each with a lock of its own, as processes have: never two inside, and no lock left."""
    inside, most = [0], [0]

    def work() -> None:
        with one_process(tmp_path / "w"):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.01)
            inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and list(tmp_path.iterdir()) == []


def test_a_dead_holder_blocks_nobody(cache: Path, server) -> None:
    _, address = server
    program = (
        "import sys, time; from pathlib import Path; from terralabel.nets.downloads import one_process\n"
        "with one_process(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(cache / "s.npz")], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"in\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert names(cache) == ["s.npz.lock"]
    assert weights.pull("sure", url=address).path.read_bytes() == CONTENT
    assert names(cache) == ["s.npz", "s.npz.sha256"]


def test_a_cache_that_cannot_be_written(cache: Path, server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, address = server
    weights.pull("sure", url=address)

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(downloads.os, "open", refuse)
        patch.setattr(Path, "mkdir", refuse)
        assert weights.pull("sure", url=address).recorded  # what is there can be read
        with pytest.raises(WeightsError, match=r"Read-only file system.*TERRALABEL_CACHE names another folder"):
            weights.pull("unsure", url=address)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TERRALABEL_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"Cannot write .*TERRALABEL_CACHE"):
        weights.pull("sure", url=address)


def test_a_damaged_file_in_the_cache_is_fetched_again(cache: Path, server) -> None:
    handler, address = server
    path = weights.pull("sure", url=address).path
    path.write_bytes(CONTENT[:-8] + bytes(8))
    said: list[str] = []
    assert weights.pull("sure", url=address, say=said.append).path.read_bytes() == CONTENT
    assert (
        len(handler.asked) == 2 and "the file is damaged or another one" in said[0] and said[0].endswith("fetching it again.")
    )
