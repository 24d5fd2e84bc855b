"""The verb itself, in a process of its own."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from terralabel.errors import MissingExtraError, RunError, SettingsError
from terralabel.recipes.run import Run, export_run, open_run
from terralabel.review import serving
from terralabel.review.app import create_app
from terralabel.review.desk import Desk
from terralabel.review.security import House
from terralabel.runs.progress import Silent


@contextmanager
def served(run: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`terralabel review` on a run, and the address it prints."""
    command = [sys.executable, "-m", "terralabel", "review", str(run), "--no-browser", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        told = ""
        try:
            while not (found := re.search(r" at (http://\S+/)", told)):
                line = process.stdout.readline()
                assert line, told
                told += line
            yield process, found.group(1)
        finally:
            process.kill()


def post(url: str, body: dict[str, object]) -> dict[str, object]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return dict(json.load(answer))


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, *(pytest.param(how, marks=pytest.mark.slow) for how in (signal.SIGHUP, signal.SIGINT))]
)
def test_what_was_acknowledged_is_exported_however_the_server_ends(run: Run, tmp_path: Path, how: signal.Signals) -> None:
    with served(run.path) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        assert post(f"{url}api/classes", {"action": "name", "classes": [2], "name": "water", "seen": 0})["version"] == 1
        process.send_signal(how)
        code = process.wait(20)
    assert code == (0 if how is signal.SIGINT else -how)
    export_run(open_run(run.path), ["geotiff"], tmp_path / "out")
    classes = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert "water" in {entry["name"] for entry in classes["classes"]}


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'terralabel\[review\]'"):
        serving.require_server()


def test_a_run_that_is_still_written_is_one_line(run: Run, tmp_path: Path) -> None:
    run.folder.write_manifest({**run.manifest, "finished": False})
    with pytest.raises(RunError, match="is not finished, nothing to review"):
        serving.open_desk(run.path)
    with pytest.raises(RunError, match="is not a TerraLabel run"):
        serving.open_desk(tmp_path / "nothing")


def test_a_taken_port_is_one_line(desk: Desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RunError, match="choose another with --port"):
        serving.review(desk, port=taken.getsockname()[1], browser=False)


def test_a_full_disk_refuses_the_change_and_keeps_the_rest(desk: Desk) -> None:
    page = TestClient(create_app(desk, House("127.0.0.1", 8765)), base_url="http://127.0.0.1:8765")
    assert page.post("/api/classes", json={"action": "name", "classes": [2], "name": "water", "seen": 0}).status_code == 200
    file = desk.journal._file
    file.execute(f"PRAGMA max_page_count={file.execute('PRAGMA page_count').fetchone()[0]}")
    refused, n = None, 1
    while n < 400 and (refused is None or refused.status_code == 200):
        refused = page.post("/api/classes", json={"action": "name", "classes": [3], "name": f"road {n} {'x' * 150}", "seen": n})
        n += refused.status_code == 200
    assert refused is not None and refused.status_code == 507 and "Disk full" in refused.json()["error"]
    told = page.get("/classes.json").json()
    assert told["version"] == n and {"water"} < {card["name"] for card in told["cards"]}
    file.execute("PRAGMA max_page_count=1000000")
    assert page.post("/api/undo", json={"seen": n}).status_code == 200


def test_names_from_words_are_on_the_page_and_without_weights_it_says_what_to_do(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="needs the extra terralabel[torch]")
    from tests.nets.tiny_words import save_clip

    told = Told()
    desk = serving.open_desk(run.path, words="water, road", text_encoder=str(save_clip(tmp_path / "clip")), progress=told)
    page = TestClient(create_app(desk, House("127.0.0.1", 8765)), base_url="http://127.0.0.1:8765")
    cards = page.get("/classes.json").json()["cards"]
    assert all({name for name, _ in card["suggested"]} == {"water", "road"} for card in cards)
    assert all(card["margin"] == pytest.approx(card["suggested"][0][1] - card["suggested"][1][1]) for card in cards)
    assert 'class="chip"' in page.get("/classes").text and "Leads the next by" in page.get("/classes").text
    desk.close()
    monkeypatch.setenv("TERRALABEL_OFFLINE", "1")
    monkeypatch.setenv("TERRALABEL_CACHE", str(tmp_path / "cache"))
    desk = serving.open_desk(run.path, words="water, road", progress=told)
    assert desk.names == {} and "no names from words" in told.lines[-1] and "--text-encoder FOLDER" in told.lines[-1]
    desk.close()
    with pytest.raises(SettingsError, match="expected 2 to 1000 words"):
        serving.open_desk(run.path, words="water")


class Told(Silent):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)
