"""Files that are either whole under their final name, or not there."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from terralabel.errors import SpaceError

__all__ = ["TEMPORARY_PREFIX", "atomic_path", "disk_full", "space_error", "sync_folder", "write_text"]

#: Temporary names start with this; whoever cleans up after a crash looks for it.
TEMPORARY_PREFIX = ".tmp-"


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot sync a folder; the rename is still atomic
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def disk_full(path: Path, needed: int = 0) -> SpaceError:
    """What to raise when there was no space left for `path`, a file of at most `needed` bytes (0: nobody knows)."""
    free = shutil.disk_usage(path.parent if path.parent.exists() else Path.cwd()).free
    wanted = f", at most {max(needed / 1e6, 0.1):,.1f} MB needed for this file" if needed else ""
    return SpaceError(
        f"Disk full while writing {path} ({free / 1e6:,.1f} MB free{wanted}): free some space and run the same command again."
    )


def space_error(error: OSError, path: Path, needed: int = 0) -> SpaceError | None:
    """The `SpaceError` to raise instead of `error`, or None when it is about something else; `needed` as in `disk_full`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(path, needed)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return SpaceError(f"Cannot write {path}: {os.strerror(error.errno)}. Choose a folder you may write to.")
    return None


@contextmanager
def atomic_path(final: Path, needed: int = 0) -> Iterator[Path]:
    """A temporary path beside `final`; on success it is fsynced and renamed to `final`, on error removed.

    The temporary name keeps the suffix (writers choose formats by it) and carries the process id, so that two
    processes never share one. Folders are made as needed. A full or read-only disk raises `SpaceError`, which tells the
    bytes `needed` at most, where they are known.
    """
    final = Path(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        # a final name may already have the longest legal length, so the temporary one must not contain it
        temporary = final.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{abs(hash(final.name)) % 10**8:08d}{final.suffix[:16]}"
        try:
            yield temporary
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, final)
            sync_folder(final.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        replacement = space_error(error, final, needed)
        if replacement is None:
            raise
        raise replacement from error


def write_text(final: Path, text: str) -> None:
    """Write a small UTF-8 file atomically."""
    content = text.encode("utf-8")
    with atomic_path(final, len(content)) as temporary:
        temporary.write_bytes(content)
