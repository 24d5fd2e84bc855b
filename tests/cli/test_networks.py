"""networks list: the table, and what is said where it cannot be made."""

from __future__ import annotations

import sys

import pytest

from terralabel.cli.main import run


def test_networks_are_listed_with_their_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm")
    with pytest.raises(SystemExit) as left:
        run(["networks", "list", "segformer-mit-b0", "PSPNet-r18", "--classes", "150"])
    lines = capsys.readouterr().out.splitlines()
    assert left.value.code == 0
    assert [line.split()[0] for line in lines[:3]] == ["name", "segformer-mit-b0", "pspnet-r18"]
    assert "3.75" in lines[1] and "8.4" in lines[1], "published: 3.8 M, 8.4 G"
    assert "150 classes" in lines[3]


def test_an_unknown_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm")
    with pytest.raises(SystemExit) as left:
        run(["networks", "list", "segfomer-mit-b0"])
    said = capsys.readouterr()
    assert left.value.code == 1 and said.out == "" and said.err.count("\n") == 1
    assert "Did you mean segformer-mit-b0" in said.err


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [n for n in sys.modules if n == "torch" or n.startswith("terralabel.nets.segmentation")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as left:
        run(["networks", "list"])
    assert left.value.code == 1
    assert "pip install 'terralabel[torch]'" in capsys.readouterr().err
