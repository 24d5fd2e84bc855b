"""What is needed next is read while what was read last is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

__all__ = ["read_ahead"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def read_ahead(
    read: Callable[[_Item], _Result], items: Iterable[_Item], *, ahead: int = 1, close: Callable[[], object] = lambda: None
) -> Generator[Future[_Result], None, None]:
    """The futures of `read(item)`, in order; what `read` raises is raised by that item's future, and stops nothing.

    At most `ahead` items are read beyond the one that was handed out last. One thread, and always the same, calls `read`,
    and `close` at the end: what is open in there needs no lock. Close the iterator where it may not be used up
    (`contextlib.closing`); that waits for what is being read.
    """
    rest = iter(items)
    with ThreadPoolExecutor(1, "read-ahead") as pool:
        try:
            coming = deque(pool.submit(read, item) for item in islice(rest, 1 + ahead))
            while coming:
                yield coming.popleft()
                coming.extend(pool.submit(read, item) for item in islice(rest, 1))
        finally:
            for future in coming:
                future.cancel()
            pool.submit(close).result()
