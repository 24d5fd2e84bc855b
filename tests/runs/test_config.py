"""Settings files: whatever is wrong is named by file, line and key, and nothing is built from the text but plain values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from terralabel.cli.options import gather
from terralabel.errors import SettingsError
from terralabel.recipes.settings import LabelSettings
from terralabel.runs.config import read_config


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def settings(path: Path, content: str | bytes) -> LabelSettings:
    """The settings that `label --config` would take from a file of this content."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return gather(LabelSettings, {}, path)


def test_plain_values_with_their_lines(path: Path) -> None:
    path.write_text("# a comment\ntau: 0.5\n\ntile-size: 512\nbands: [4, 3, 2]\ntransductive: true\nsensor: sar\n")
    assert read_config(path) == {
        "tau": (0.5, f"{path}:2: "),
        "tile_size": (512, f"{path}:4: "),
        "bands": ([4, 3, 2], f"{path}:5: "),
        "transductive": (True, f"{path}:6: "),
        "sensor": ("sar", f"{path}:7: "),
    }


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\ufeffseed: 0\n", "seed: 0\r\n"])
def test_an_empty_file_changes_nothing(path: Path, text: str) -> None:
    assert settings(path, text) == LabelSettings()


@pytest.mark.parametrize(("text", "clusters"), [("clusters: 12", "12"), ("clusters: auto", "auto"), ("clusters: '12'", "12")])
def test_a_number_may_stand_for_text(path: Path, text: str, clusters: str) -> None:
    assert settings(path, text).clusters == clusters


def test_lines_and_flags_are_judged_together(path: Path) -> None:
    both = settings(path, "overlap: 900\ntile_size: 2048")
    assert (both.overlap, both.tile_size) == (900, 2048)
    path.write_text("seed: 1\noverlap: 900")
    assert gather(LabelSettings, {"tile_size": "2048"}, path).overlap == 900
    with pytest.raises(SettingsError, match=r"settings\.yaml:2: overlap 900 is more than half of tile_size 1024"):
        gather(LabelSettings, {}, path)


BILLION = "a: &a [1, 2]\n" + "".join(f"{n}: &{n} [*{m}, *{m}, *{m}]\n" for m, n in zip("abcdefgh", "bcdefghi", strict=True))
WRONG: dict[str, tuple[str | bytes, int, str]] = {
    "unknown key": ("tau: 0.3\nclustres: 5", 2, "unknown setting 'clustres'. Did you mean 'clusters'?"),
    "wrong type": ("tau: much", 1, "tau: expected a number; got 'much'"),
    "a list for a number": ("tau: [0.3]", 1, "tau: expected a number; got [0.3]"),
    "a date": ("clusters: 2026-01-01", 1, "clusters: expected text"),
    "nothing": ("\ntau:", 2, "tau: expected a number; got nothing"),
    "not a number": ("tau: .nan", 1, "tau: expected a number; got nan"),
    "infinite": ("tau: .inf", 1, "tau: expected a number; got inf"),
    "true for a number": ("min_size: true", 1, "min_size: expected a whole number; got True"),
    "too small": ("min_size: 0", 1, "min_size: expected at least 1; got 0"),
    "too few": ("seed: 1\nclusters: 0", 2, "clusters: expected auto or a whole number from 1 to 60000; got '0'"),
    "no choice": ("sensor: radar", 1, "sensor: expected one of optical, sar; got 'radar'"),
    "twice": ("tau: 0.3\nseed: 1\ntau: 0.4", 3, "'tau' is set twice (first at "),
    "twice, spelled otherwise": ("tile_size: 512\ntile-size: 256", 2, "'tile_size' is set twice"),
    "settings inside": ("masks:\n  tau: 0.3", 1, "'masks' has settings inside it"),
    "a bomb": (BILLION, 1, "aliases, anchors and tags are not allowed"),
    "an alias": ("tau: &t 0.3\nbox_nms_thresh: *t", 1, "aliases, anchors and tags are not allowed"),
    "code": ("seed: !!python/object/apply:os.system ['touch planted']", 1, "aliases, anchors and tags are not allowed"),
    "no mapping": ("- tau\n- 0.3", 1, "expected `setting: value` lines"),
    "not YAML": ("tau: 0.3\nbands: [1, 2", 2, "not valid YAML"),
    "not UTF-8": (b"seed: 1\n# caf\xe9\n", 2, "not UTF-8 text"),
    "a list as a name": ("[1]: 2", 1, "expected `setting: value` lines"),
    "a map as a name": ("seed: 1\n{a: 1}: 2", 2, "expected `setting: value` lines"),
    "brackets without end": ("tau: " + "[" * 5000, 1, "nested too deep"),
    "two documents": ("tau: 0.3\n---\ntau: 0.4", 2, "not valid YAML"),
    "another encoding": ("tau: 0.3".encode("utf-16"), 1, "not UTF-8 text"),
    "a zero byte": (b"seed: 1\n\x00", 1, "not valid YAML"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_by_file_line_and_key(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, line, says = WRONG[name]
    monkeypatch.chdir(path.parent)
    with pytest.raises(SettingsError) as error:
        settings(path, content)
    text = str(error.value)
    assert says in text and "\n" not in text and len(text) < 1000
    if name not in ("a zero byte", "not YAML"):
        assert text.startswith(f"{path}:{line}: ")
    assert sorted(p.name for p in path.parent.iterdir()) == ["settings.yaml"]


@pytest.mark.parametrize(("make", "says"), [(Path.mkdir, "Is a directory"), (lambda path: None, "No such file")])
def test_a_file_that_cannot_be_read(path: Path, make: Any, says: str) -> None:
    make(path)
    with pytest.raises(SettingsError, match=says):
        read_config(path)


def test_a_huge_file_is_not_even_parsed(path: Path) -> None:
    path.write_bytes(b"#" * 1_000_001)
    with pytest.raises(SettingsError, match="1,000,001 bytes"):
        read_config(path)


def test_a_fifo_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(SettingsError, match="not a file"):
        read_config(path)


def test_nothing_is_started(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from terralabel.cli.main import run

    monkeypatch.chdir(path.parent)
    path.write_text("tau: 0.3\nsede: 3\n")
    with pytest.raises(SystemExit) as left:
        run(["label", ".", "--out", "run", "--config", path.name])
    assert left.value.code == 1
    assert capsys.readouterr().err == "error: settings.yaml:2: unknown setting 'sede'. Did you mean 'seed'?\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["settings.yaml"]
