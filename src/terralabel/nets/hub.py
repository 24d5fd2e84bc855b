"""Files of repositories on the Hugging Face hub: those on this machine first, a download only where it is allowed.

Looked for in our cache (``CACHE/hub/OWNER/NAME/FILE``, where a person may put them), then in the hub's own cache; what is
fetched goes to ours. Downloads are our own, because the hub's client tries for half a minute where there is no network. Gated
repositories are asked with the account's token (`downloads.hub_token`), which is sent to the hub only and written nowhere.
"""

from __future__ import annotations

import urllib.error
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from terralabel.core.files import atomic_path
from terralabel.errors import WeightsError
from terralabel.nets.checkpoints import check
from terralabel.nets.downloads import download, hub_address, hub_token, one_process, tag_file
from terralabel.nets.pickles import printable
from terralabel.nets.weights import cache_folder, is_offline

__all__ = ["hub_file", "hub_folder"]


def hub_file(repository: str, file: str, instead: str) -> Path:
    """One file of a repository ("owner/name"). Raises `WeightsError`, naming it and where to put it, when it is not to be had.

    `instead` is what a person may give in its place.
    """
    return hub_folder(repository, [file], instead) / file


def hub_folder(repository: str, files: Sequence[str], instead: str, optional: Sequence[str] = ()) -> Path:
    """A folder with all of `files`, and those of `optional` that the repository has. Errors as for `hub_file`."""
    ours = cache_folder() / "hub" / repository
    if all((ours / file).is_file() for file in files):
        return ours
    theirs = _hub_cache(repository, files)
    if theirs is not None:
        return theirs
    for file in files:
        _fetch(repository, file, ours / file, instead)
    for file in optional:
        with suppress(WeightsError):
            _fetch(repository, file, ours / file, instead)
    return ours


def _hub_cache(repository: str, files: Sequence[str]) -> Path | None:
    """The hub's own cache of this repository, if it is there with all files."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = [try_to_load_from_cache(repository, file) for file in files]
    folders = {Path(path).parent for path in found if isinstance(path, str)}
    return folders.pop() if len(folders) == 1 and all(isinstance(path, str) for path in found) else None


def _fetch(repository: str, file: str, final: Path, instead: str) -> None:
    if final.is_file():
        return
    page = f"{hub_address()}/{repository}"
    address, part = f"{page}/resolve/main/{file}", final.with_name(final.name + ".part")
    way_out = f"fetch {address} elsewhere and put it at {final}, or give {instead}"
    if is_offline():
        raise WeightsError(f"{file} of {repository} is not on this machine (offline): {way_out}.")
    try:
        with one_process(final):
            if final.is_file():  # another process has fetched it meanwhile
                return
            download(address, part)
            tag_file(part).unlink(missing_ok=True)
            _check(part, final)
            with atomic_path(final) as temporary:
                part.replace(temporary)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            way_out = f"accept its licence at {page}{_token_advice()}, or {way_out}"
        raise WeightsError(f"{file} of {repository}: the server answered {error.code} {error.reason}: {way_out}.") from error
    except OSError as error:
        raise WeightsError(f"{file} of {repository}: {printable(getattr(error, 'reason', error))}: {way_out}.") from error


def _token_advice() -> str:
    """What to do about the token besides; it is never shown."""
    if hub_token() is None:
        return " and set HF_TOKEN to a token of that account (or `hf auth login`)"
    return " with the account whose token was sent (HF_TOKEN or the hub's token file), which may not read it yet"


def _check(part: Path, final: Path) -> None:
    """Weights are looked at before they get their name; what is no weights file is not kept."""
    try:
        if final.suffix == ".safetensors":
            check(part)
    except WeightsError as error:
        part.unlink()
        raise WeightsError(str(error).replace(str(part), final.name)) from error
