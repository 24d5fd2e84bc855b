"""From what the user names - folders, files, lists, mmseg roots - to image files with unique keys."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from terralabel.errors import InputError
from terralabel.imagery.keys import unique_keys
from terralabel.imagery.sniff import open_regular, sniff

__all__ = ["Skipped", "SourceFile", "Sources", "content_hash", "find_sources"]

_SPLITS = ("train", "val", "test")
_SUFFIXES = {
    "GTiff": {".tif", ".tiff", ".gtif", ".gtiff", ".btf", ".tf8", ".cog"},
    "PNG": {".png"},
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "JP2OpenJPEG": {".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc", ".jph"},
    "BMP": {".bmp", ".dib"},
    "VRT": {".vrt"},
}
#: A file with such a suffix was meant to be an image: when it is none, that is reported, not ignored.
_MEANT_AS_IMAGE = frozenset[str]().union(*_SUFFIXES.values()) | {".img", ".ecw", ".sid", ".ntf", ".nitf"}
#: Written beside images by other programs; never images of their own.
_SIDECARS = (".aux.xml", ".ovr", ".msk", ".rrd", ".aux")
_MAX_LIST_BYTES = 256 << 20


@dataclass(frozen=True)
class SourceFile:
    """One image found. `key` is unique, ASCII-fold-proof and safe as a file name; `driver` is what its bytes say it is.

    `stem` is the name without its suffix, as found. `split` is "train", "val" or "test" inside an mmseg `img_dir`.
    `warning` is a sentence for the user when the suffix claims another format than the bytes.
    """

    path: Path
    stem: str
    key: str
    driver: str
    split: str | None = None
    warning: str | None = None


@dataclass(frozen=True)
class Skipped:
    """Something named or found that cannot be an image: machine-readable `status`, and `reason`, a sentence."""

    path: Path
    status: str
    reason: str


@dataclass(frozen=True)
class Sources:
    """Images to process, sorted by key, and what was skipped, sorted by path."""

    files: tuple[SourceFile, ...]
    skipped: tuple[Skipped, ...]


@dataclass
class _Walk:
    """What one call of `find_sources` has seen so far."""

    follow_vrt: bool
    found: list[tuple[Path, str, str | None]] = field(default_factory=list)  # path, driver, split
    skipped: list[Skipped] = field(default_factory=list)
    seen: set[Path] = field(default_factory=set)

    def skip(self, path: Path, status: str, reason: str) -> None:
        self.skipped.append(Skipped(path, status, reason))


def find_sources(arguments: Sequence[str | Path], *, follow_vrt: bool = False) -> Sources:
    """Every image that `arguments` name: folders (searched through), files, `.txt` lists, mmseg roots.

    A folder's hidden entries, sidecars and files that were never meant as images are passed over silently; what has an
    image's suffix but is none, cannot be read, is a FIFO, a dangling or circular link is reported in `skipped`.
    In an mmseg root (a folder with `img_dir`), only `img_dir` is searched. A list has one path a line, relative to the
    list. Nothing is opened but regular files, so nothing hangs. The same file named twice is one source.

    Raises `InputError` when an argument does not exist (status "missing") or is a URL or `/vsi` path (status "remote").
    """
    walk = _Walk(follow_vrt)
    for argument in arguments:
        path = _local(argument)
        if not os.path.lexists(path):
            raise InputError(f"{argument} does not exist: expected a folder, an image or a list of images.", "missing")
        if path.is_dir():
            _search_root(walk, path)
        elif path.suffix.lower() == ".txt" and _is_list(path):
            _read_list(walk, path)
        else:
            _take_file(walk, path, None, named=True)
    files = _with_keys(walk.found)
    return Sources(files, tuple(sorted(set(walk.skipped), key=lambda s: (str(s.path), s.status))))


def content_hash(path: Path) -> str:
    """sha256 (hex) of a file's bytes, read in pieces: the identity of an input.

    A damaged image often decodes without an error, so neither name, size nor a successful read says that an input is
    the one that was labelled before.
    """
    digest = hashlib.sha256()
    with open_regular(path) as handle:
        try:
            while piece := handle.read(1 << 20):
                digest.update(piece)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.", "unreadable") from error
    return digest.hexdigest()


def _local(argument: str | Path) -> Path:
    """The path of an argument; URLs and GDAL's virtual file systems are refused."""
    text = os.fspath(argument)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", text) or re.match(r"/+vsi", text):
        raise InputError(f"{text!r} is not on this machine; download it and name the file.", "remote")
    if "\0" in text or not text:
        raise InputError(f"{text!r} is no path.", "missing")
    return Path(os.path.normpath(Path(text).absolute()))


def _search_root(walk: _Walk, folder: Path) -> None:
    """A folder argument: an mmseg root, its `img_dir`, one of its splits, or just a folder."""
    images = folder / "img_dir"
    if images.is_dir():
        _search(walk, images, mmseg=images)
    elif folder.name == "img_dir":
        _search(walk, folder, mmseg=folder)
    elif folder.parent.name == "img_dir":
        _search(walk, folder, mmseg=folder.parent)
    else:
        _search(walk, folder, mmseg=None)


def _search(walk: _Walk, folder: Path, *, mmseg: Path | None, above: tuple[Path, ...] = ()) -> None:
    """Take every image below `folder`, in sorted order; `above` are the real paths of the folders on the way here."""
    real = folder.resolve()
    if real in above:
        walk.skip(folder, "symlink-loop", f"{folder} is a symbolic link that leads back to a folder above it.")
        return
    if real in walk.seen:
        return
    walk.seen.add(real)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        walk.skip(folder, "permission", f"Folder {folder} cannot be searched: {error.strerror}.")
        return
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if path.is_dir():
            _search(walk, path, mmseg=mmseg, above=(*above, real))
        else:
            _take_file(walk, path, _split(path, mmseg), named=False)


def _split(path: Path, mmseg: Path | None) -> str | None:
    if mmseg is None:
        return None
    first = path.relative_to(mmseg).parts[0]
    return first if first in _SPLITS else None


def _is_list(path: Path) -> bool:
    """True when a `.txt` is text: an image with a wrong suffix is an image."""
    try:
        sniff(path)
    except InputError as error:
        return error.status in ("not-a-raster", "empty")
    return False


def _read_list(walk: _Walk, path: Path) -> None:
    """One path a line, relative to the list; blank lines and lines that start with `# ` are passed over."""
    with open_regular(path) as handle:
        content = handle.read(_MAX_LIST_BYTES + 1)
    if len(content) > _MAX_LIST_BYTES or b"\0" in content:
        raise InputError(f"{path} is no list of images: expected text with one path a line.", "not-a-list")
    for line in content.decode("utf-8-sig", "surrogateescape").split("\n"):
        line = line.removesuffix("\r")
        if not line.strip() or line.startswith("# "):
            continue
        name = line if os.path.lexists(path.parent / line) else line.strip()
        try:
            listed = _local(path.parent / name) if "://" not in name else _local(name)
        except InputError as error:
            walk.skip(path.parent / name, error.status, str(error))
            continue
        if not os.path.lexists(listed):
            walk.skip(listed, "missing", f"{listed}, named in {path.name}, does not exist.")
        elif listed.is_dir():
            _search_root(walk, listed)
        else:
            _take_file(walk, listed, None, named=True)


def _take_file(walk: _Walk, path: Path, split: str | None, *, named: bool) -> None:
    """Add one non-folder to what was found or skipped; `named` files are never ignored."""
    lower = path.name.lower()
    if not named and lower.endswith(_SIDECARS):
        return
    reason = _unusable(path)
    if reason is not None:
        walk.skip(path, *reason)
        return
    real = path.resolve()
    if real in walk.seen:
        return
    try:
        driver = sniff(path, follow_vrt=walk.follow_vrt)
    except InputError as error:
        meant = named or path.suffix.lower() in _MEANT_AS_IMAGE
        if meant or error.status not in ("not-a-raster", "empty"):
            walk.skip(path, error.status, str(error))
        return
    walk.seen.add(real)
    walk.found.append((path, driver, split))


def _unusable(path: Path) -> tuple[str, str] | None:
    """(status, reason) when `path` cannot even be opened safely."""
    try:
        path.name.encode("utf-8")
    except UnicodeEncodeError:
        return "bad-name", f"{os.fsencode(path)!r}: the name is not UTF-8; rename the file."
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "dangling-link", f"{path} is a symbolic link to a file that does not exist."
    except PermissionError:
        return "permission", f"{path} may not be read: no permission."
    except (OSError, RuntimeError):
        return "symlink-loop", f"{path} is a symbolic link that leads back to itself."
    if not stat.S_ISREG(mode):
        return "not-a-file", f"{path} is a FIFO, socket or device; expected a file."
    return None


def _with_keys(found: Sequence[tuple[Path, str, str | None]]) -> tuple[SourceFile, ...]:
    keys = unique_keys([path for path, _, _ in found])
    files = [
        SourceFile(path, path.stem, key, driver, split, _suffix_warning(path, driver))
        for (path, driver, split), key in zip(found, keys, strict=True)
    ]
    return tuple(sorted(files, key=lambda file: file.key))


def _suffix_warning(path: Path, driver: str) -> str | None:
    suffix = path.suffix.lower()
    claimed = next((name for name, suffixes in _SUFFIXES.items() if suffix in suffixes), None)
    if claimed is None or claimed == driver:
        return None
    return f"{path} is a {driver} file, not what its suffix {suffix} says; it is read as what it is."
