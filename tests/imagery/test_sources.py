from __future__ import annotations

import os
import random
import shutil
import socket
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from terralabel.errors import InputError
from terralabel.imagery import sniff as sniff_module
from terralabel.imagery import sources as sources_module
from terralabel.imagery.sources import content_hash, find_sources


def picture(path: Path, value: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(path, format="PNG")
    return path


def statuses(sources: sources_module.Sources) -> dict[str, str]:
    return {skipped.path.name: skipped.status for skipped in sources.skipped}


def test_folder_is_searched_in_depth_and_sorted(tmp_path: Path, unchanged) -> None:
    for name in ("b.png", "a.png", "deep/er/c.png", ".hidden.png", ".git/d.png"):
        picture(tmp_path / name)
    unchanged(tmp_path)
    sources = find_sources([tmp_path])
    assert [file.key for file in sources.files] == ["a", "b", "c"]
    assert [file.path for file in sources.files] == [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "deep/er/c.png"]
    assert sources.skipped == ()


def test_other_files_are_ignored_but_broken_images_are_reported(tmp_path: Path) -> None:
    picture(tmp_path / "good.png")
    for name in ("notes.xml", "table.csv", "labels.json", "readme", "good.png.aux.xml", "good.png.ovr", "good.png.msk"):
        (tmp_path / name).write_text("text")
    (tmp_path / "done").touch()
    (tmp_path / "page.png").write_text("<!DOCTYPE html><html>")
    (tmp_path / "pointer.tif").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "nothing.tif").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "virtual.tif").write_text("<VRTDataset rasterXSize='1' rasterYSize='1'></VRTDataset>")
    sources = find_sources([tmp_path])
    assert [file.key for file in sources.files] == ["good"]
    assert statuses(sources) == {
        "page.png": "not-a-raster",
        "pointer.tif": "not-a-raster",
        "nothing.tif": "empty",
        "text.jpg": "not-a-raster",
        "virtual.tif": "not-a-raster",
    }
    reasons = {skipped.path.name: skipped.reason for skipped in sources.skipped}
    assert "HTML" in reasons["page.png"]
    assert "git lfs pull" in reasons["pointer.tif"]
    assert "--follow-vrt" in reasons["virtual.tif"]
    assert all("\n" not in reason for reason in reasons.values())


def test_vrt_only_on_request(tmp_path: Path) -> None:
    (tmp_path / "v.vrt").write_text("<VRTDataset rasterXSize='1' rasterYSize='1'></VRTDataset>")
    assert [file.driver for file in find_sources([tmp_path], follow_vrt=True).files] == ["VRT"]
    assert statuses(find_sources([tmp_path])) == {"v.vrt": "not-a-raster"}


def test_wrong_suffix_is_taken_for_what_it_is_with_a_warning(tmp_path: Path) -> None:
    picture(tmp_path / "really_png.tif")
    picture(tmp_path / "no_suffix")
    files = {file.stem: file for file in find_sources([tmp_path]).files}
    assert files["really_png"].driver == "PNG"
    assert "PNG" in (files["really_png"].warning or "")
    assert files["no_suffix"].warning is None


def test_named_file_that_is_no_image_is_reported_not_ignored(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b")
    sources = find_sources([tmp_path / "table.csv", picture(tmp_path / "a.png")])
    assert statuses(sources) == {"table.csv": "not-a-raster"}
    assert len(sources.files) == 1


def test_list_file(tmp_path: Path) -> None:
    picture(tmp_path / "x/a b.png")
    picture(tmp_path / "x/# odd.png")
    picture(tmp_path / "y/c.png")
    text = "\ufeffx/a b.png\r\n\n# a comment\nx/# odd.png\ny\n  x/a b.png  \nmissing.png\nhttps://host/z.tif\n/vsicurl/https://host/z.tif"
    (tmp_path / "list.txt").write_bytes(text.encode())
    sources = find_sources([tmp_path / "list.txt"])
    assert [file.stem for file in sources.files] == ["# odd", "a b", "c"]
    assert sorted(skipped.status for skipped in sources.skipped) == ["missing", "remote", "remote"]


def test_image_named_txt_is_an_image(tmp_path: Path) -> None:
    assert [file.driver for file in find_sources([picture(tmp_path / "a.txt")]).files] == ["PNG"]


@pytest.mark.parametrize("argument", ["root", "root/img_dir", "root/img_dir/val"])
def test_mmseg_reads_img_dir_only(tmp_path: Path, argument: str) -> None:
    for name in ("img_dir/train/a.png", "img_dir/val/a.png", "img_dir/test/deep/b.png", "ann_dir/train/a.png", "other.png"):
        picture(tmp_path / "root" / name)
    files = find_sources([tmp_path / argument]).files
    splits = sorted((file.split, file.stem) for file in files)
    assert splits == ([("val", "a")] if argument.endswith("val") else [("test", "b"), ("train", "a"), ("val", "a")])
    assert len({file.key for file in files}) == len(files)


def test_awkward_names_get_safe_unique_keys(tmp_path: Path, unchanged) -> None:
    names = [
        "with space", "quo'te\"s", "new\nline", "Straße", "日本語" * 20, "-dash", "semi;$(x)", "a:b", "tab\t",
        "n" * 250, "con", "trailing.", "per%20cent", "..x", unicodedata.normalize("NFD", "é"),
    ]  # fmt: skip
    for name in names:
        picture(tmp_path / "in" / f"{name}.png")
    picture(tmp_path / "in" / ("L" * 255))
    unchanged(tmp_path / "in")
    sources = find_sources([tmp_path / "in"])
    hidden = [name for name in names if name.startswith(".")]
    assert len(sources.files) == len(names) + 1 - len(hidden)
    assert {file.stem for file in sources.files} == {*names, "L" * 255} - set(hidden)
    for file in sources.files:
        assert len(file.key.encode()) <= 160
        assert not set(file.key) & set(" \"'\n\t:;/\\$()%*?<>|")
        assert file.key[0] not in ".-"
        assert not file.key.endswith(".")
        assert file.key.lower() != "con"
        folder = tmp_path / "keys"
        folder.mkdir(exist_ok=True)
        (folder / f"{file.key}.parquet").touch(exist_ok=False)


def test_equal_names_do_not_collide(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", "b/X.png", "x.png", "x.jpg", "b--x.png", "é.png", "e\u0301.png"):
        picture(tmp_path / name)
    files = find_sources([tmp_path]).files
    assert len(files) == 8
    folded = {unicodedata.normalize("NFC", file.key).casefold() for file in files}
    assert len(folded) == 8
    assert [file.key for file in files] == sorted(file.key for file in files)


def test_keys_depend_neither_on_order_nor_on_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/x.png", "b/x.png", "b/X.PNG", "c/y.png"):
        picture(tmp_path / "one" / name)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    first = [(file.key, file.path.relative_to(tmp_path / "one")) for file in find_sources([tmp_path / "one"]).files]
    moved = [(file.key, file.path.relative_to(tmp_path / "two")) for file in find_sources([tmp_path / "two"]).files]
    assert first == moved
    monkeypatch.chdir(tmp_path)
    paths = [path.relative_to(tmp_path) for path in (tmp_path / "one").rglob("*") if path.is_file()]
    random.Random(3).shuffle(paths)
    assert [(file.key, file.path.relative_to(tmp_path / "one")) for file in find_sources(paths).files] == first


def test_same_file_named_twice_is_one_source(tmp_path: Path) -> None:
    path = picture(tmp_path / "d/a.png")
    (tmp_path / "d/link.png").symlink_to(path)
    assert len(find_sources([tmp_path / "d", path, tmp_path / "d"]).files) == 1


def test_loops_pipes_sockets_and_dangling_links_never_hang(tmp_path: Path) -> None:
    picture(tmp_path / "ok.png")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/up").symlink_to(tmp_path)
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.png"))
        sources = find_sources([tmp_path, tmp_path / "pipe.png"])
    assert [file.key for file in sources.files] == ["ok"]
    assert statuses(sources) == {
        "up": "symlink-loop",
        "self.png": "symlink-loop",
        "gone.png": "dangling-link",
        "pipe.png": "not-a-file",
        "s.png": "not-a-file",
    }


def test_sniffing_a_pipe_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    with pytest.raises(InputError) as error:
        sniff_module.sniff(tmp_path / "p")
    assert error.value.status == "not-a-file"


def test_no_permission_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = picture(tmp_path / "secret.png")
    picture(tmp_path / "ok.png")
    real = os.open

    def refuse(path: object, *rest: int, **more: int) -> int:  # the tests may run as root, whom no mode stops
        if path == secret:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(sniff_module.os, "open", refuse)
    sources = find_sources([tmp_path])
    assert statuses(sources) == {"secret.png": "permission"}
    assert [file.key for file in sources.files] == ["ok"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folder_without_permission_is_reported(tmp_path: Path) -> None:
    picture(tmp_path / "locked/a.png")
    (tmp_path / "locked").chmod(0)
    try:
        assert statuses(find_sources([tmp_path])) == {"locked": "permission"}
    finally:
        (tmp_path / "locked").chmod(0o700)


def test_name_that_is_not_utf8_is_reported(tmp_path: Path) -> None:
    picture(tmp_path / "ok.png")
    try:
        shutil.copy(tmp_path / "ok.png", os.fsencode(tmp_path) + b"/bad\xff.png")
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    sources = find_sources([tmp_path])
    assert [skipped.status for skipped in sources.skipped] == ["bad-name"]
    assert len(sources.files) == 1


@pytest.mark.parametrize(
    "argument",
    ["https://host/a.tif", "s3://bucket/a.tif", "/vsicurl/https://host/a.tif", "/vsimem/a.tif", "zip:///a.zip!/b.tif"],
)
def test_remote_input_is_refused(argument: str) -> None:
    with pytest.raises(InputError, match="not on this machine") as error:
        find_sources([argument])
    assert error.value.status == "remote"


def test_missing_argument(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist") as error:
        find_sources([tmp_path / "nope"])
    assert error.value.status == "missing"


def test_content_hash(tmp_path: Path) -> None:
    import hashlib

    content = bytes(range(256)) * 9000
    (tmp_path / "a").write_bytes(content)
    assert content_hash(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    with pytest.raises(InputError) as error:
        content_hash(tmp_path / "b")
    assert error.value.status == "vanished"
