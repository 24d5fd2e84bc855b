"""The verbs about weights, as a person types them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from terralabel.cli.machine import models
from terralabel.nets import weights


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TERRALABEL_CACHE", str(tmp_path / "cache"))
    for name in ("TERRALABEL_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    """Three megabytes of weights."""
    np.savez(tmp_path / "w.npz", w=np.random.default_rng(0).random(400_000))
    return (tmp_path / "w.npz").read_bytes()


@pytest.fixture
def address(archive: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(archive)))
            self.end_headers()
            self.wfile.write(archive)

        def log_message(self, *_: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{listener.server_port}/w"
    listener.shutdown()
    thread.join()
    listener.server_close()


def test_list_names_the_whole_family(cache: Path) -> None:
    said = CliRunner().invoke(models, ["list"]).output
    sizes = ["tiny", "small", "base_plus", "large"]
    names = [f"sam_vit_{s}" for s in "blh"] + [f"sam_hq_vit_{s}" for s in "blh"] + ["edgetam", "sam3"]
    for name in [*names, *(f"sam2_{s}" for s in sizes), *(f"sam2.1_{s}" for s in sizes)]:
        assert f"--masks {name}\n" in said and sum(line.split()[:1] == [name] for line in said.splitlines()) == 1


def test_pull_shows_progress_and_says_what_came(cache: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = weights.Model("known", "k.npz", "tests", "MIT", "nowhere", url=address)
    monkeypatch.setattr(weights, "CATALOGUE", (known,))
    result = CliRunner().invoke(models, ["pull", "known"])
    assert result.exit_code == 0 and "1 tensors, 0.40 M numbers" in result.output
    assert "known: 3/3 MB" in result.stderr
    again = CliRunner().invoke(models, ["pull", "known"])
    assert again.exit_code == 0 and "MB" not in again.stderr


def test_offline_by_flag_or_environment(cache: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "CATALOGUE", (weights.Model("known", "k.npz", "tests", "MIT", "nowhere", url=address),))
    assert "offline" in str(CliRunner().invoke(models, ["pull", "known", "--offline"]).exception)
    monkeypatch.setenv("TERRALABEL_OFFLINE", "1")
    assert "offline" in str(CliRunner().invoke(models, ["pull", "known"]).exception)
    assert not cache.exists()


def test_check_ends_with_1_for_what_cannot_be_used(tmp_path: Path, archive: bytes) -> None:
    (tmp_path / "torn.npz").write_bytes(archive[:100_000])
    (tmp_path / "bad.pth").write_bytes(b"<html>log in</html>")
    for name, code, word in (
        ("w.npz", 0, "0.40 M numbers"),
        ("torn.npz", 1, "truncated"),
        ("bad.pth", 1, "a web page"),
        ("none", 1, "no such file"),
    ):
        command = [sys.executable, "-c", "from terralabel.cli.main import run; run()", "models", "check", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == code and word in done.stdout + done.stderr and "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == code
