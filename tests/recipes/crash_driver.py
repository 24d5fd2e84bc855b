"""Started by test_crash.py as a process of its own: labels in forked children, each of which meets one fault.

    python crash_driver.py SPEC.json

SPEC: {"sources", "settings", "faults": [{"out", "at", "call", "count"}]}. `call` names a function of `os` (replace or
fsync), `count` the call of it that goes wrong, `at` how: "kill-before", "kill-after" (SIGKILL, as by `kill -9`) or the name of an
errno. Without `call`, nothing goes wrong. Prints one JSON line per fault: the calls it saw, or how it ended.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from terralabel.errors import TerraLabelError
from terralabel.recipes import plan
from terralabel.recipes.label import label

_SEEN: dict[str, int] = {}


def hook(name: str, fault: dict[str, Any]) -> None:
    """Count the calls of os.NAME; let the one that `fault` means go wrong."""
    real: Callable[..., Any] = getattr(os, name)

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        _SEEN[name] = _SEEN.get(name, 0) + 1
        if fault.get("call") != name or _SEEN[name] != fault["count"]:
            return real(*arguments, **keywords)
        if fault["at"] == "kill-after":
            real(*arguments, **keywords)
        if fault["at"].startswith("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        code = getattr(errno, fault["at"])
        raise OSError(code, os.strerror(code))

    setattr(os, name, wrapped)


def run(spec: dict[str, Any], fault: dict[str, Any]) -> int:
    """Label once; exit codes as the command line's."""
    for name in ("replace", "fsync"):
        hook(name, fault)
    try:
        found = label(spec["sources"], fault["out"], workers=0, **spec["settings"])
    except TerraLabelError as error:
        print(json.dumps({"error": str(error), "kind": type(error).__name__}), flush=True)
        return 1
    print(json.dumps({"seen": _SEEN, "failures": len(found.failures)}), flush=True)
    return 2 if found.failures else 0


def main() -> None:
    """One child per fault, one after the other; the parent loads the code once and never labels."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    plan._SHARD_PIXELS = spec.get("shard_pixels", plan._SHARD_PIXELS)
    for fault in spec["faults"]:
        child = os.fork()
        if child == 0:
            status = 70
            try:
                status = run(spec, fault)
            finally:
                sys.stdout.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"exit": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
