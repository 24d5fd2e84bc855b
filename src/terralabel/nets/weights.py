"""The weights on this machine: a catalogue of known checkpoints, a cache folder, and how a file gets into it.

Offline is normal: nothing here touches the network but `pull`, and `pull` takes a file fetched elsewhere as well.
"""

from __future__ import annotations

import http.client
import os
import shutil
import sys
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from terralabel.core.files import atomic_path, space_error, write_text
from terralabel.errors import SettingsError, WeightsError
from terralabel.nets.catalogue import CATALOGUE, Model
from terralabel.nets.checkpoints import WeightsReport, check, file_sha256
from terralabel.nets.downloads import Progress, download, one_process, tag_file
from terralabel.nets.pickles import printable

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
    """`list_models` as text for people, and what comes with the package."""
    from terralabel.nets.nano.runtime import who_computes

    by = who_computes()
    ready = f"computed by {by}" if by else "pip install 'terralabel[nano]'"
    rows = [("name", "file", "MB", "licence", "here", "use")]
    for model, path in list_models():
        size = f"{model.size / 1e6:.0f}" if model.size else "?"
        rows.append((model.name, model.file, size, model.licence, "yes" if path else "no", model.use))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", f"in the package: nano, for --masks nano ({ready})"]
    return "\n".join([*lines, f"cache: {cache_folder()} (TERRALABEL_CACHE moves it)"])


def pull(
    name: str,
    *,
    url: str | None = None,
    from_file: Path | str | None = None,
    offline: bool | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> WeightsReport:
    """Put a known checkpoint into the cache, whole and checked, and say what it is.

    `from_file` is copied; otherwise it is downloaded from `url` or the catalogue's address, going on where an
    interrupted download stopped. Of two processes the second waits for the first, saying so by `say`. Raises `WeightsError`
    when the file is not what it should be, when there is no address, or offline (naming the file, its sha256 and where to
    put it).
    """
    model = _model(name)
    final = cache_folder() / model.file
    address = url or model.url
    here = None if from_file is not None else _usable(final, model, may_replace=address is not None, say=say)
    if here is not None:
        return here
    if from_file is None and (address is None or (is_offline() if offline is None else offline)):
        raise WeightsError(_by_hand(model, final, "no address is known" if address is None else "offline"))
    with _writable(final), one_process(final, say):
        if from_file is not None:
            _copy(Path(from_file), final, model)
        elif not final.is_file():  # else another process has fetched it meanwhile
            _download(str(address), final, model, progress)
    return check(final, model.sha256)


def _usable(final: Path, model: Model, may_replace: bool, say: Callable[[str], None] | None) -> WeightsReport | None:
    """The report of the cached file; a damaged one is put away when it can be fetched again."""
    if not final.is_file():
        return None
    try:
        return check(final, model.sha256)
    except WeightsError as error:
        if not may_replace or is_offline():
            raise
        if say is not None:
            say(f"{str(error).removesuffix('fetch it again.')}fetching it again.")
        with _writable(final):
            final.unlink()
            final.with_name(final.name + ".sha256").unlink(missing_ok=True)
        return None


@contextmanager
def _writable(final: Path) -> Iterator[None]:
    """Errors of the disk as one line with the way out."""
    try:
        yield
    except OSError as error:
        known = space_error(error, final)
        raise WeightsError(
            f"{known or f'Cannot write {final}: {error.strerror or error}.'} TERRALABEL_CACHE names another folder."
        ) from error


def how_to_get(name: str) -> str:
    """What to do about a known checkpoint that is not in the cache, in one line."""
    model = _model(name)
    final = cache_folder() / model.file
    if model.url is None or model.gated or is_offline():
        return _by_hand(model, final, "not in the cache")
    size = f", {model.size / 1e6:,.0f} MB" if model.size else ""
    return f"{model.name}: not in the cache; `terralabel models pull {model.name}` fetches it ({model.file}{size})."


def _by_hand(model: Model, final: Path, why: str) -> str:
    digest = f"sha256 {model.sha256}" if model.sha256 else "sha256 not known"
    origin = f"fetch it from {model.url} elsewhere" if model.url else f"it was made from {model.source}"
    if model.gated:
        origin = f"accept its licence at {model.source}, then {origin}"
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


def _download(address: str, final: Path, model: Model, progress: Progress | None) -> None:
    """Fetch into ``<file>.part``, then check and rename."""
    part = final.with_name(final.name + ".part")
    try:
        download(address, part, resume=model.sha256 is not None, size=model.size, progress=progress)
    except urllib.error.HTTPError as error:
        why = f"the server answered {error.code} {error.reason}"
        if error.code in (401, 403):
            why += "; it wants a person with an account"
        raise WeightsError(f"{address}: {why}. {_by_hand(model, final, 'not downloaded')}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        reason = printable(getattr(error, "reason", error))
        raise WeightsError(f"{address}: {reason}. {_by_hand(model, final, 'no connection')}") from error
    try:
        _accept(part, model)
    except WeightsError:
        part.unlink()
        raise
    finally:
        tag_file(part).unlink(missing_ok=True)
    with atomic_path(final) as temporary:
        part.replace(temporary)
    _record(final)
