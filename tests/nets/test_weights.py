"""Weights files: what they are, what is refused, and how they get into the cache. Only 127.0.0.1 is ever connected to."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from terralabel.errors import SettingsError, WeightsError
from terralabel.nets import weights
from terralabel.nets.checkpoints import check, compare_keys, read_state


def safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    header, data = {}, b""
    for key, value in tensors.items():
        raw = value.astype("<f4").tobytes()
        header[key] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return struct.pack("<Q", len(text)) + text + data


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def torch_zip(program: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", bytes(48))
    return buffer.getvalue()


#: What torch.save writes for {"state_dict": {"layer1.0.conv1.weight": 3 x 4 zeros}, "epoch": 3}.
STATE_DICT = (
    b"\x80\x02}q\x00(X\n\x00\x00\x00state_dictq\x01}q\x02X\x15\x00\x00\x00layer1.0.conv1.weightq\x03ctorch._utils\n_rebuild_tensor_v2\n"
    b"q\x04((X\x07\x00\x00\x00storageq\x05ctorch\nFloatStorage\nq\x06X\x01\x00\x00\x000q\x07X\x03\x00\x00\x00cpuq\x08K\x0ctq\tQK\x00K\x03"
    b"K\x04\x86q\nK\x04K\x01\x86q\x0b\x89ccollections\nOrderedDict\nq\x0c)Rq\rtq\x0eRq\x0fsX\x05\x00\x00\x00epochq\x10K\x03u."
)


class Bomb:
    """Runs a command when a careless program loads it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.target}",)


def test_reports_say_what_a_file_is(tmp_path: Path) -> None:
    tensors = {"patch_embed.proj.weight": np.zeros((8, 3, 4, 4)), "blocks.0.attn.qkv.weight": np.ones((24, 8))}
    (tmp_path / "a.safetensors").write_bytes(safetensors(tensors))
    report = check(tmp_path / "a.safetensors")
    assert report.kind == "safetensors" and report.architecture.startswith("ViT (timm")
    assert report.shapes == {"patch_embed.proj.weight": (8, 3, 4, 4), "blocks.0.attn.qkv.weight": (24, 8)}
    assert report.parameters == 8 * 48 + 24 * 8 and report.sha256 in str(report) and "ViT" in str(report)
    (tmp_path / "b.npz").write_bytes(npz(w=np.zeros((2, 3), np.float16)))
    assert (check(tmp_path / "b.npz").kind, check(tmp_path / "b.npz").shapes) == ("npz", {"w": (2, 3)})
    np.testing.assert_array_equal(read_state(tmp_path / "b.npz")["w"], np.zeros((2, 3)))
    (tmp_path / "c.pth").write_bytes(torch_zip(STATE_DICT))
    report = check(tmp_path / "c.pth")
    assert (report.kind, report.shapes) == ("torch", {"state_dict.layer1.0.conv1.weight": (3, 4)})


def test_torch_saves_are_read_without_torch_as_with_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    half = torch.nn.Parameter(torch.ones(2, 5).half())
    saved = {
        "model": {"a": torch.zeros(3), "b": half, "c": torch.tensor(1)},
        "arguments": {"lr": 1e-3, "names": ["x", ("y", None)]},
    }
    torch.save(saved, tmp_path / "full.pth")
    report = check(tmp_path / "full.pth")
    assert report.shapes == {"model.a": (3,), "model.b": (2, 5), "model.c": ()}
    assert set(read_state(tmp_path / "full.pth")) == {"a", "b", "c"}
    linear = torch.nn.Linear(7, 3)
    torch.save(linear.state_dict(), tmp_path / "linear.pth")
    assert check(tmp_path / "linear.pth").shapes == {"weight": (3, 7), "bias": (3,)}
    assert torch.equal(read_state(tmp_path / "linear.pth")["weight"], linear.weight)
    torch.save(linear, tmp_path / "module.pth")
    with pytest.raises(WeightsError, match=r"torch\.nn\.modules\.linear\.Linear"):
        check(tmp_path / "module.pth")


def test_a_planted_command_never_runs(tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    program = pickle.dumps({"weight": Bomb(flag)}, protocol=2)
    (tmp_path / "zip.pth").write_bytes(torch_zip(program))
    (tmp_path / "new.pth").write_bytes(torch_zip(pickle.dumps(Bomb(flag), protocol=4)))
    (tmp_path / "old.pth").write_bytes(program)
    objects = np.empty(1, dtype=object)
    objects[0] = Bomb(flag)
    (tmp_path / "objects.npz").write_bytes(npz(w=objects))
    for name, words in (
        ("zip.pth", r"would run \w+\.system"),
        ("new.pth", r"would run \w+\.system"),
        ("old.pth", "legacy pickle"),
    ):
        for reader in (check, read_state):
            with pytest.raises(WeightsError, match=words):
                reader(tmp_path / name)
    for reader in (check, read_state):
        with pytest.raises(WeightsError, match="pickled objects"):
            reader(tmp_path / "objects.npz")
    assert not flag.exists()
    pickle.loads(program)  # the control: loaded carelessly, it does run
    assert flag.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"\n <!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "Git LFS pointer"),
        (b"just some text", "not a weights file"),
        (b"\x80\x02}q\x00.", "legacy pickle"),
        (safetensors({}), "without a single tensor"),
        (torch_zip(b"\x80\x02}q\x00(X\x05\x00"), "damaged"),
        (torch_zip(b"\x80\x02h\x09."), "damaged"),
    ],
)
def test_what_is_not_weights_is_called_by_its_name(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=words) as caught:
        check(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("whole", [safetensors({"a": np.ones((40, 40))}), npz(a=np.ones((40, 40))), torch_zip(STATE_DICT)])
def test_truncated_files_are_refused(tmp_path: Path, whole: bytes, share: float) -> None:
    (tmp_path / "w").write_bytes(whole)
    check(tmp_path / "w")
    (tmp_path / "w").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(WeightsError):
        check(tmp_path / "w")


@pytest.mark.parametrize("name", ["safetensors", "npz", "torch", "index"])
def test_mutated_files_are_read_or_refused_by_name(tmp_path: Path, name: str) -> None:
    """400 mutants of each kind: no other error than ours, and none with more than one line."""
    wholes = {
        "safetensors": safetensors({"a": np.ones((4, 4))}),
        "npz": npz(a=np.ones((4, 4))),
        "torch": torch_zip(STATE_DICT),
        "index": STATE_DICT,
    }
    whole, refused = wholes[name], 0
    rng = np.random.default_rng(0)
    for _ in range(400):
        mutant = bytearray(whole)
        for at in rng.integers(0, len(mutant), rng.integers(1, 4)):
            mutant[at] = rng.integers(0, 256)
        (tmp_path / "w").write_bytes(torch_zip(bytes(mutant)) if name == "index" else mutant)
        try:
            check(tmp_path / "w")
        except WeightsError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 40


@pytest.mark.parametrize("name", ["safetensors", "npz", "torch"])
def test_mutated_files_load_or_are_refused(tmp_path: Path, name: str) -> None:
    """What passes `check` may still fail in the library that loads it; that too is an error of ours."""
    torch = pytest.importorskip("torch")
    saved = io.BytesIO()
    torch.save({"model": {"a": torch.ones(4, 4), "b": torch.zeros(3)}}, saved)
    with zipfile.ZipFile(saved) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    whole = {
        "safetensors": safetensors({"a": np.ones((4, 4))}),
        "npz": npz(a=np.ones((4, 4))),
        "torch": members["archive/data.pkl"],
    }[name]
    rng, loaded = np.random.default_rng(1), 0
    for _ in range(150):
        mutant = bytearray(whole)
        mutant[rng.integers(0, len(mutant))] ^= 1 << rng.integers(0, 8)
        if name == "torch":
            with zipfile.ZipFile(tmp_path / "w", "w") as archive:
                for member, content in {**members, "archive/data.pkl": bytes(mutant)}.items():
                    archive.writestr(member, content)
        else:
            (tmp_path / "w").write_bytes(mutant)
        try:
            loaded += read_state(tmp_path / "w") is not None
        except WeightsError as error:
            assert "\n" not in str(error)
    assert loaded


def test_bombs_are_not_set_off(tmp_path: Path) -> None:
    itself: dict = {}
    itself["again"] = itself
    laughs: dict = {"ha": 1}
    for _ in range(60):
        laughs = {"one": laughs, "two": laughs}
    for held in (itself, laughs):
        (tmp_path / "w.pth").write_bytes(torch_zip(pickle.dumps(held, protocol=2)))
        with pytest.raises(WeightsError, match="without a single tensor"):
            check(tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        for _ in range(150):
            member.write(bytes(1_000_000))
    with pytest.raises(WeightsError, match="150,000,000 bytes packed into"):
        check(tmp_path / "bomb.npz")


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    whole = bytearray(safetensors({"a": np.ones((40, 40))}))
    path = tmp_path / "w.safetensors"
    path.write_bytes(whole)
    digest = hashlib.sha256(whole).hexdigest()
    (tmp_path / "w.safetensors.sha256").write_text(f"{digest}  w.safetensors\n")
    assert check(path).recorded
    whole[-3] ^= 4
    path.write_bytes(whole)
    with pytest.raises(WeightsError, match=f"expected {digest}"):
        check(path)
    (tmp_path / "w.safetensors.sha256").write_text("gone\n")
    with pytest.raises(WeightsError, match="expected a sha256"):
        check(path)
    damaged = bytearray(npz(a=np.ones((40, 40))))
    damaged[len(damaged) // 2] ^= 4
    (tmp_path / "w.npz").write_bytes(damaged)
    with pytest.raises(WeightsError, match="damaged"):
        check(tmp_path / "w.npz")


def test_another_architecture_names_the_first_keys() -> None:
    wanted = {"a": (1,), "b": (2, 3), "c": (4,), "d": (5,), "e": (6,)}
    compare_keys({**wanted, "more": (1,)}, wanted, "w.pth")
    with pytest.raises(WeightsError, match=r"missing c, d, e; b is \(2, 2\), expected \(2, 3\); unknown z"):
        compare_keys({"a": (1,), "b": (2, 2), "z": (1,)}, wanted, "w.pth")


CONTENT = safetensors({"w": np.arange(60_000).reshape(200, 300)})


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT; /torn stops halfway, /page is HTML, /plain knows no ranges."""

    asked: list[tuple[str, str | None]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        span = self.headers.get("Range")
        self.asked.append((self.path, span))
        if self.path == "/missing":
            return self.send_error(404)
        body = b"<html>log in</html>" if self.path == "/page" else CONTENT
        start = int(span.removeprefix("bytes=").rstrip("-")) if span and self.path != "/plain" else 0
        if start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        self.wfile.write(body[start : len(body) // 2] if self.path == "/torn" else body[start:])
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Server.asked.clear()
    listener = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{listener.server_port}"
    listener.shutdown()
    thread.join()
    listener.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a catalogue of two models with CONTENT for weights."""
    monkeypatch.setenv("TERRALABEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TERRALABEL_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    known = weights.Model("known", "k.safetensors", "tests", "MIT", "nowhere", None, hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(weights, "CATALOGUE", (known, replace(known, name="unsure", file="u.safetensors", sha256=None)))
    return tmp_path / "cache"


def test_downloads_are_whole_and_checked(cache: Path, server: str) -> None:
    report = weights.pull("known", url=f"{server}/file")
    assert report.path == cache / "k.safetensors" and report.path.read_bytes() == CONTENT and report.recorded
    assert sorted(p.name for p in cache.iterdir()) == ["k.safetensors", "k.safetensors.sha256"]
    assert weights.pull("known", url=f"{server}/file").sha256 == report.sha256
    assert len(Server.asked) == 1  # what is there is not fetched again
    assert [(m.name, p is not None) for m, p in weights.list_models()] == [("known", True), ("unsure", False)]


@pytest.mark.parametrize("rest", ["/file", "/plain"])
def test_an_interrupted_download_goes_on(cache: Path, server: str, rest: str) -> None:
    with pytest.raises(WeightsError, match="the connection ended after"):
        weights.pull("known", url=f"{server}/torn")
    assert [p.name for p in cache.iterdir()] == ["k.safetensors.part"]
    weights.pull("known", url=server + rest)
    assert Server.asked[-1] == (rest, f"bytes={len(CONTENT) // 2}-")
    assert (cache / "k.safetensors").read_bytes() == CONTENT and not (cache / "k.safetensors.part").exists()


def test_without_a_sha256_a_download_starts_anew(cache: Path, server: str) -> None:
    with pytest.raises(WeightsError, match="the connection ended after"):
        weights.pull("unsure", url=f"{server}/torn")
    assert weights.pull("unsure", url=f"{server}/file").recorded
    assert Server.asked[-1] == ("/file", None)
    damaged = bytearray(CONTENT)
    damaged[-1] ^= 1
    (cache / "u.safetensors").write_bytes(damaged)
    with pytest.raises(WeightsError, match="damaged"):
        weights.pull("unsure")


def test_what_comes_down_wrong_is_not_kept(cache: Path, server: str) -> None:
    with pytest.raises(WeightsError, match=r"k\.safetensors: a web page"):
        weights.pull("known", url=f"{server}/page")
    with pytest.raises(WeightsError, match="404"):
        weights.pull("known", url=f"{server}/missing")
    with pytest.raises(WeightsError, match=r"--file PATH"):
        weights.pull("known", url="http://127.0.0.1:9/closed")
    with pytest.raises(SettingsError, match="http"):
        weights.pull("known", url="file:///etc/passwd")
    assert list(cache.iterdir()) == []


def test_offline_says_what_to_fetch_and_where_to_put_it(cache: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    for how in ({"offline": True}, {}):
        if not how:
            monkeypatch.setenv("TERRALABEL_OFFLINE", "1")
        with pytest.raises(WeightsError) as caught:
            weights.pull("known", url=f"{server}/file", **how)
        assert all(word in str(caught.value) for word in ("k.safetensors", digest, str(cache / "k.safetensors"), "--file"))
    with pytest.raises(WeightsError, match="no address is known"):
        weights.pull("unsure")
    assert not Server.asked and not cache.exists()


def test_a_file_given_by_hand(cache: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_bytes(CONTENT)
    assert weights.pull("known", from_file=given, offline=True).path.read_bytes() == CONTENT
    given.write_bytes(CONTENT[:-4])
    with pytest.raises(WeightsError, match="truncated"):
        weights.pull("unsure", from_file=given)
    given.write_bytes(safetensors({"other": np.ones(3)}))
    with pytest.raises(WeightsError, match="expected " + hashlib.sha256(CONTENT).hexdigest()):
        weights.pull("known", from_file=given)
    assert (cache / "k.safetensors").read_bytes() == CONTENT  # the good one is still there
    with pytest.raises(WeightsError, match="no such file"):
        weights.pull("known", from_file=tmp_path / "none")
    with pytest.raises(SettingsError, match="known: known, unsure"):
        weights.pull("other")


def test_the_shipped_catalogue_is_sound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TERRALABEL_CACHE", str(tmp_path))
    names = [m.name for m in weights.CATALOGUE]
    assert len(set(names)) == len(names)
    for model in weights.CATALOGUE:
        assert Path(model.file).name == model.file and (model.url is None or model.url.startswith("https://"))
        assert model.sha256 is None or (len(model.sha256) == 64 and int(model.sha256, 16))
    table = weights.models_table()
    assert all(name in table for name in names) and str(tmp_path) in table


def test_the_cache_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TERRALABEL_CACHE", raising=False)
    monkeypatch.setattr(weights.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.cache_folder() == tmp_path / "terralabel"
    monkeypatch.setattr(weights.sys, "platform", "darwin")
    assert weights.cache_folder().parts[-3:] == ("Library", "Caches", "terralabel")
