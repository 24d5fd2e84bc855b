"""The weights on this machine: a catalogue of known checkpoints, a cache folder, and how a file gets into it.

Offline is normal: nothing here touches the network but `pull`, and `pull` takes a file fetched elsewhere as well.
"""

from __future__ import annotations

import os
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from terralabel.core.files import atomic_path, space_error, write_text
from terralabel.errors import SettingsError, WeightsError
from terralabel.nets.checkpoints import WeightsReport, check, file_sha256

__all__ = [
    "CATALOGUE",
    "Model",
    "WeightsReport",
    "cache_folder",
    "check",
    "find",
    "how_to_get",
    "is_offline",
    "list_models",
    "models_table",
    "pull",
]

_SAM, _SAM2 = "https://dl.fbaipublicfiles.com/segment_anything/", "https://dl.fbaipublicfiles.com/segment_anything_2/092824/"
_SAM_PAGE, _SAM2_PAGE = "https://github.com/facebookresearch/segment-anything", "https://github.com/facebookresearch/sam2"


@dataclass(frozen=True)
class Model:
    """A known checkpoint. `size` (bytes), `sha256` and `url` are None where no sure value is known."""

    name: str
    file: str
    use: str
    licence: str
    source: str
    size: int | None = None
    sha256: str | None = None
    url: str | None = None


def _sam(name: str, file: str, size: int, sha256: str) -> Model:
    use = "known; support arrives with the SAM backend"
    return Model(name, file, use, "Apache-2.0", _SAM_PAGE, size, sha256, _SAM + file)


def _sam2(size_name: str) -> Model:
    file = f"sam2.1_hiera_{size_name}.pt"
    use = "known; support arrives with the SAM backend"
    return Model(f"sam2.1_{size_name}", file, use, "Apache-2.0", _SAM2_PAGE, None, None, _SAM2 + file)


CATALOGUE: tuple[Model, ...] = (
    Model(
        "mobilenet_v2",
        "mobilenet_v2_imagenet.npz",
        "--features mobilenet_v2",
        "Apache-2.0",
        "https://github.com/google-coral/test_data",
        7_044_102,
        "f6a8402851e2e86d72e92dd6b3a113692be2170c3ab7e83d860c0c3bcef53e1e",
    ),
    _sam("sam_vit_b", "sam_vit_b_01ec64.pth", 375_042_383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    _sam(
        "sam_vit_l", "sam_vit_l_0b3195.pth", 1_249_524_607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"
    ),
    _sam(
        "sam_vit_h", "sam_vit_h_4b8939.pth", 2_564_550_879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
    ),
    *(_sam2(size) for size in ("tiny", "small", "base_plus", "large")),
)


def cache_folder() -> Path:
    """Where weights are kept: ``TERRALABEL_CACHE``, else the platform's cache folder."""
    if given := os.environ.get("TERRALABEL_CACHE"):
        return Path(given).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "terralabel"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "terralabel"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "terralabel"


def is_offline() -> bool:
    """True when ``TERRALABEL_OFFLINE`` or ``HF_HUB_OFFLINE`` forbids every connection."""
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in ("TERRALABEL_OFFLINE", "HF_HUB_OFFLINE")
    )


def _model(name: str) -> Model:
    found = next((m for m in CATALOGUE if name in (m.name, m.file)), None)
    if found is None:
        raise SettingsError(f"Unknown model {name!r}; known: {', '.join(m.name for m in CATALOGUE)}.")
    return found


def list_models() -> list[tuple[Model, Path | None]]:
    """Every known checkpoint, and where it is on this machine (None when it is not)."""
    return [(model, find(model.name)) for model in CATALOGUE]


def find(name: str) -> Path | None:
    """The cached file of a known model, or None."""
    path = cache_folder() / _model(name).file
    return path if path.is_file() else None


def models_table() -> str:
    """`list_models` as text for people."""
    rows = [("name", "file", "MB", "licence", "here", "use")]
    for model, path in list_models():
        size = f"{model.size / 1e6:.0f}" if model.size else "?"
        rows.append((model.name, model.file, size, model.licence, "yes" if path else "no", model.use))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, f"cache: {cache_folder()} (TERRALABEL_CACHE moves it)"])


def pull(
    name: str, *, url: str | None = None, from_file: Path | str | None = None, offline: bool | None = None
) -> WeightsReport:
    """Put a known checkpoint into the cache, whole and checked, and say what it is.

    `from_file` is copied; otherwise it is downloaded from `url` or the catalogue's address, going on where an
    interrupted download stopped when the sha256 is known. Raises `WeightsError` when the file is not what it should be,
    when there is no address, or offline (naming the file, its sha256 and where to put it).
    """
    model = _model(name)
    final = cache_folder() / model.file
    if from_file is None and final.is_file():
        return check(final, model.sha256)
    if from_file is not None:
        _copy(Path(from_file), final, model)
    else:
        address = url or model.url
        if address is None or (is_offline() if offline is None else offline):
            raise WeightsError(_by_hand(model, final, "no address is known" if address is None else "offline"))
        _download(address, final, model)
    return check(final, model.sha256)


def how_to_get(name: str) -> str:
    """What to do about a known checkpoint that is not in the cache, in one line."""
    model = _model(name)
    return _by_hand(model, cache_folder() / model.file, "not in the cache")


def _by_hand(model: Model, final: Path, why: str) -> str:
    digest = f"sha256 {model.sha256}" if model.sha256 else "sha256 not known"
    origin = f"fetch it from {model.url} elsewhere" if model.url else f"it was made from {model.source}"
    return (
        f"{model.name}: {why}; it needs {model.file} ({digest}), {origin}: "
        f"`terralabel models pull {model.name} --file PATH`, or put it at {final}."
    )


def _accept(temporary: Path, model: Model) -> None:
    """Refuse what is not the model before it gets its final name."""
    digest = file_sha256(temporary)
    if model.sha256 and digest != model.sha256:
        try:
            check(temporary)  # a web page, a pointer or a torn file is better called that than "another sha256"
        except WeightsError as error:
            raise WeightsError(str(error).replace(str(temporary), model.file)) from error
        raise WeightsError(
            f"{model.file}: sha256 is {digest}, expected {model.sha256}: damaged or another file; it was not kept."
        )
    if not model.sha256:
        try:
            check(temporary)
        except WeightsError as error:
            raise WeightsError(str(error).replace(str(temporary), model.file)) from error


def _copy(source: Path, final: Path, model: Model) -> None:
    if not source.is_file():
        raise WeightsError(f"{source}: no such file.")
    with atomic_path(final) as temporary:
        shutil.copyfile(source, temporary)
        _accept(temporary, model)
    _record(final)


def _record(final: Path) -> None:
    """Remember what was accepted, so that a bit that flips later is noticed."""
    write_text(final.with_name(final.name + ".sha256"), f"{file_sha256(final)}  {final.name}\n")


def _download(address: str, final: Path, model: Model) -> None:
    """Fetch into ``<file>.part``, then check and rename."""
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise SettingsError(f"{address}: expected an http or https address; use --file for a file on this machine.")
    part = final.with_name(final.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    if not model.sha256:
        part.unlink(missing_ok=True)  # without a sha256 two halves of different files could be joined unnoticed
    try:
        _fetch(address, part)
    except urllib.error.HTTPError as error:
        raise WeightsError(
            f"{address}: the server answered {error.code} {error.reason}. {_by_hand(model, final, 'not downloaded')}"
        ) from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise WeightsError(f"{address}: {reason}. {_by_hand(model, final, 'no connection')}") from error
    except OSError as error:
        raise space_error(error, part) or error from error
    try:
        _accept(part, model)
    except WeightsError:
        part.unlink()
        raise
    with atomic_path(final) as temporary:
        part.replace(temporary)
    _record(final)


def _fetch(address: str, part: Path) -> None:
    """Download into `part`, after what it already holds where the server can go on from there."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(address, headers={"User-Agent": "terralabel"})  # noqa: S310 - http(s) only, see above
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=60)  # noqa: S310
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing left to send
            return
        raise
    with answer, part.open("ab" if answer.status == 206 else "wb") as handle:
        shutil.copyfileobj(answer, handle, 1 << 20)
        expected = answer.headers.get("Content-Length")
        got = handle.tell() - (have if answer.status == 206 else 0)
    if expected is not None and got < int(expected):
        raise WeightsError(f"{address}: the connection ended after {got} of {expected} bytes; run the same command to go on.")
