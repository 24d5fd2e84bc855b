"""GDAL on a short lead: what it may do, and its errors as ours."""

from __future__ import annotations

import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from terralabel.errors import InputError

__all__ = ["gdal", "way_out"]

_GDAL = {
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_CACHEMAX": 64 << 20,
    "GDAL_NUM_THREADS": "1",
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",  # else the missing part of a truncated JPEG reads as grey
    "GDAL_HTTP_MAX_RETRY": "0",
    "CPL_DEBUG": "OFF",
}
_TRUNCATED = re.compile(
    r"got \d+ bytes, expected|premature end|end of file|read error|incomplete|too short|unexpected end|read from offset", re.I
)
_UNSUPPORTED = re.compile(r"not supported|unsupported|would require libjpeg", re.IGNORECASE)

logging.getLogger("rasterio").addHandler(logging.NullHandler())  # GDAL's own lines go to whoever asks for them


@contextmanager
def gdal(path: Path) -> Iterator[None]:
    """GDAL configured as above; what it raises becomes one `InputError`."""
    try:
        with _quiet, rasterio.Env(**_GDAL):
            yield
    except MemoryError as error:
        raise InputError(f"{path} needs more memory to decode than there is; {way_out(path)}", "unsupported") from error
    except (RasterioError, CPLE_BaseError, OSError, ValueError, UnicodeError) as error:
        raise _as_input_error(path, error) from error


class _Quiet:
    """While any thread is inside: no warning about pictures without a place, and no traceback printed by rasterio's log
    callback when a damaged file makes GDAL speak in bytes that are no UTF-8. The first in sets, the last out restores.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._restore = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._restore.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                self._hook()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._restore.close()

    def _hook(self) -> None:
        unraisable_hook, hook = sys.unraisablehook, sys.excepthook  # Cython prints through both

        def unraisable(event: sys.UnraisableHookArgs) -> None:
            if not (isinstance(event.exc_value, UnicodeDecodeError) and "log_error" in str(event.object)):
                unraisable_hook(event)

        def printed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            if not isinstance(error, UnicodeDecodeError):
                hook(kind, error, trace)

        def restore() -> None:
            sys.unraisablehook, sys.excepthook = unraisable_hook, hook

        sys.unraisablehook, sys.excepthook = unraisable, printed
        self._restore.callback(restore)


_quiet = _Quiet()


def _as_input_error(path: Path, error: BaseException) -> InputError:
    messages: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        messages.append(" ".join(str(cause).split()))
        cause = cause.__cause__ or cause.__context__
    if not path.exists():
        return InputError(f"{path} is no longer there.", "vanished")
    told = next((m for m in messages if _TRUNCATED.search(m)), None)
    if told is not None:
        return InputError(f"{path} is cut short ({told[:200]}); copy or download it again.", "truncated")
    if any(_UNSUPPORTED.search(m) for m in messages):
        return InputError(f"{path} uses what this GDAL cannot read ({messages[-1][:200]}); {way_out(path)}", "unsupported")
    return InputError(f"{path} is damaged ({messages[-1][:200]}); copy or download it again.", "corrupt")


def way_out(path: Path) -> str:
    """The command that makes a file readable piece by piece."""
    return f"convert it: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE {path.name!r} tiled.tif"
