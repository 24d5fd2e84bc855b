"""A key for every image: unique in the run, safe as a file name everywhere, readable."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

__all__ = ["unique_keys"]

_MAX_KEY_BYTES = 120
_LAST_LEVEL = 3
_PLAIN = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_-])?")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def unique_keys(paths: Sequence[Path]) -> list[str]:
    """The stem; where that collides the way to it as well; where that collides a hash as well.

    Unique also where case or Unicode normalisation is ignored. Depends on the set of (absolute, different) paths below
    their common folder, not on the order of listing or on where that folder is.
    """
    if not paths:
        return []
    root = Path(os.path.commonpath([path.parent for path in paths]))
    level = [0] * len(paths)
    keys = [_key(path, root, 0) for path in paths]
    while again := [i for i in _colliding(keys) if level[i] < _LAST_LEVEL]:
        for i in again:
            level[i] += 1
            keys[i] = _key(paths[i], root, level[i])
    return keys


def _colliding(keys: Sequence[str]) -> list[int]:
    folded = [_folded(key) for key in keys]
    count = Counter(folded)
    return [i for i, key in enumerate(folded) if count[key] > 1]


def _key(path: Path, root: Path, level: int) -> str:
    """Ever longer keys of one file; that of the last level holds a hash of its path below `root`."""
    if level == 0:
        return _safe(path.stem)
    relative = path.relative_to(root)
    if level < _LAST_LEVEL:
        return _safe("--".join((*relative.parts[:-1], path.stem if level == 1 else path.name)))
    return f"{_safe(path.stem)[:80]}-{hashlib.sha256(os.fsencode(relative.as_posix())).hexdigest()[:16]}"


def _safe(name: str) -> str:
    """`name` with letters and digits of any script, `_`, `-` and `.`, at most 120 bytes, not hidden, not reserved."""
    if _PLAIN.fullmatch(name) and len(name) <= _MAX_KEY_BYTES and not _RESERVED.fullmatch(name):
        return name
    name = unicodedata.normalize("NFC", name)
    safe = "".join(c if c.isalnum() or c in "_-." else "_" for c in name).rstrip(".")
    if not safe or safe[0] in "-.":
        safe = "_" + safe
    if _RESERVED.fullmatch(safe):
        safe += "_"
    encoded = safe.encode()
    if len(encoded) > _MAX_KEY_BYTES:
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
        safe = encoded[: _MAX_KEY_BYTES - 13].decode("utf-8", "ignore") + "-" + digest
    return safe


def _folded(key: str) -> str:
    """How a file system that ignores case and normalisation compares names."""
    if key.isascii():
        return key.lower()
    return unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", key).casefold())
