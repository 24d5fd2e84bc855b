"""Files of the hub's repositories: here, fetched, or named. Only 127.0.0.1 is ever connected to."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from terralabel.errors import WeightsError
from terralabel.nets import hub
from terralabel.nets.downloads import download
from terralabel.nets.hub import hub_file, hub_folder


def weights() -> bytes:
    """A safetensors file of one tensor, made by hand."""
    header = b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    buffer = io.BytesIO()
    buffer.write(len(header).to_bytes(8, "little") + header + np.arange(4, dtype="<f4").tobytes())
    return buffer.getvalue()


@pytest.fixture
def repositories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict]:
    """A hub of our own: path -> content, the status to answer with, or where to redirect to; "asked" are the paths asked for,
    "tokens" what came with them, and "gated" those that want one."""
    files: dict = {"asked": [], "tokens": [], "gated": set()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            files["asked"].append(self.path)
            files["tokens"].append(self.headers.get("Authorization"))
            found = files.get(self.path, 404)
            if isinstance(found, str):
                self.send_response(302)
                self.send_header("Location", found)
                self.send_header("Content-Length", "0")
                return self.end_headers()
            if self.path in files["gated"] and files["tokens"][-1] != "Bearer hf_secret":
                found = 401
            if isinstance(found, int):
                return self.send_error(found)
            self.send_response(200)
            self.send_header("Content-Length", str(len(found)))
            self.end_headers()
            self.wfile.write(found)
            return None

        def log_message(self, *_: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listener.server_port}")
    monkeypatch.setenv("TERRALABEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "_hub_cache", lambda *_: None)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-home"))
    for name in ("TERRALABEL_OFFLINE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    files["port"] = listener.server_port
    yield files
    listener.shutdown()
    thread.join()
    listener.server_close()


def test_a_folder_is_fetched_once(repositories: dict, tmp_path: Path) -> None:
    repositories |= {"/a/b/resolve/main/config.json": b"{}", "/a/b/resolve/main/model.safetensors": weights()}
    for _ in range(2):
        folder = hub_folder("a/b", ("config.json", "model.safetensors"), "a folder", optional=("preprocessor_config.json",))
        assert folder == tmp_path / "cache" / "hub" / "a" / "b"
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert len(repositories["asked"]) == 3


def test_what_is_not_to_be_had_is_named_with_the_way_out(
    repositories: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repositories |= {"/a/gated/resolve/main/config.json": 401, "/a/page/resolve/main/model.safetensors": b"<html>log in</html>"}
    put = str(tmp_path / "cache" / "hub" / "a" / "gated" / "config.json")
    with pytest.raises(WeightsError) as caught:
        hub_file("a/gated", "config.json", "a folder")
    for word in ("401", "accept its licence at", "set HF_TOKEN to a token of that account", put, "or give a folder"):
        assert word in str(caught.value)
    with pytest.raises(WeightsError, match="the server answered 404"):
        hub_file("a/none", "config.json", "a folder")
    with pytest.raises(WeightsError, match=r"^model\.safetensors: a web page"):
        hub_file("a/page", "model.safetensors", "a folder")
    assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(WeightsError, match=r"refused: fetch http://127\.0\.0\.1:9/a/b/resolve/main/config\.json elsewhere"):
        hub_file("a/b", "config.json", "a folder")
    assert time.monotonic() - started < 1
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(repositories["asked"])
    with pytest.raises(WeightsError, match=r"not on this machine \(offline\)"):
        hub_file("a/b", "config.json", "a folder")
    assert len(repositories["asked"]) == asked


@pytest.mark.parametrize("where", ["environment", "file"])
def test_a_gated_repository_takes_a_token(
    repositories: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    config, moved = "/a/gated/resolve/main/config.json", "/b/gated/resolve/main/config.json"
    repositories |= {config: moved, moved: b"{}", "gated": {moved}}
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(WeightsError, match="whose token was sent") as caught:
        hub_file("a/gated", "config.json", "a folder")
    assert "hf_wrong" not in str(caught.value)
    if where == "environment":
        monkeypatch.setenv("HF_TOKEN", "hf_secret\n")
    else:
        monkeypatch.delenv("HF_TOKEN")
        (tmp_path / "hub-home").mkdir()
        (tmp_path / "hub-home" / "token").write_text("hf_secret\n")
    assert hub_file("a/gated", "config.json", "a folder").read_bytes() == b"{}"
    assert repositories["tokens"][-2:] == ["Bearer hf_secret"] * 2
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept and not any(b"hf_secret" in path.read_bytes() for path in kept)


def test_the_token_goes_to_the_hub_only(repositories: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    elsewhere = f"http://localhost:{repositories['port']}/elsewhere"  # another name, so another server
    repositories |= {"/a/b/resolve/main/config.json": elsewhere, "/elsewhere": b"{}"}
    hub_file("a/b", "config.json", "a folder")
    download(elsewhere, tmp_path / "direct")
    assert repositories["asked"] == ["/a/b/resolve/main/config.json", "/elsewhere", "/elsewhere"]
    assert repositories["tokens"] == ["Bearer hf_secret", None, None]


def test_the_cache_of_the_hubs_own_client_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("TERRALABEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snapshot = tmp_path / "theirs" / "models--a--b" / "snapshots" / "f00"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("f00")
    (snapshot / "config.json").write_text("{}")
    look = client.try_to_load_from_cache
    monkeypatch.setattr(client, "try_to_load_from_cache", lambda *names: look(*names, cache_dir=tmp_path / "theirs"))
    assert hub_file("a/b", "config.json", "a folder") == snapshot / "config.json"
    with pytest.raises(WeightsError, match="offline"):
        hub_folder("a/b", ("config.json", "model.safetensors"), "a folder")
