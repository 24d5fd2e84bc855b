"""From a run folder to a page that is open in a browser."""

from __future__ import annotations

import contextlib
import getpass
import socket
import warnings
import webbrowser
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from terralabel.errors import MissingExtraError, RunError, SettingsError, TerraLabelError
from terralabel.recipes.curate import name_shares
from terralabel.recipes.detected_run import open_any
from terralabel.recipes.run import Run, require_finished
from terralabel.recipes.survey import Survey, survey_clusters
from terralabel.recipes.worded import parsed_words, word_shares
from terralabel.review.desk import Desk
from terralabel.review.security import House, is_loopback
from terralabel.runs.progress import Progress, Silent

__all__ = ["open_desk", "require_server", "review"]


def require_server() -> None:
    """Raise `MissingExtraError`, in one line, where the server's packages are not installed."""
    for name in ("fastapi", "uvicorn", "jinja2"):
        if find_spec(name) is None:
            raise MissingExtraError(f"review needs the package {name!r}: pip install 'terralabel[review]'.")


def open_desk(
    path: Path,
    *,
    author: str = "",
    truth: Path | None = None,
    names: str = "",
    words: str = "",
    text_encoder: str = "",
    progress: Progress | None = None,
) -> Desk:
    """A run at a desk, its clusters surveyed. Raises `RunError` for a run that is not finished.

    `truth`: a folder of labelled images from which names are suggested, `names` theirs, as of `align_run`. `words` or `text_encoder`
    (a folder or hub name of CLIP or SigLIP) ask for names by the likeness of typical objects to words; those of labelled images go first.
    Where the encoder's weights are not to be had, the page opens without these names, and says what to do.
    """
    progress = progress or Silent()
    run = open_any(path)
    require_finished(run, "review")
    asked = bool(words or text_encoder)
    chosen = parsed_words(words)
    if not isinstance(run, Run):
        if truth is not None or asked:
            flag = "--truth" if truth is not None else "--words"
            raise SettingsError(f"{flag}: {path} has labels without clusters, there is nothing to name.")
        return Desk(run, author or _me())
    shares = name_shares(run, truth, names, progress) if truth is not None else {}
    survey = survey_clusters(run, progress)
    if asked:
        shares = {**_worded(run, survey, chosen, text_encoder, progress), **shares}
    desk = Desk(run, author or _me(), shares)
    desk.survey = survey
    return desk


def _worded(
    run: Run, survey: Survey, words: Sequence[str], text_encoder: str, progress: Progress
) -> dict[int, list[tuple[str, float]]]:
    """Names by likeness to words; none, and a line that says why, without the encoder."""
    from terralabel.nets.wording import load_words

    try:
        return word_shares(run, survey, load_words(text_encoder), words, progress)
    except TerraLabelError as error:
        progress.say(f"no names from words: {error}")
        return {}


def _me() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container without names
        return ""


def review(
    desk: Desk, *, host: str = "127.0.0.1", port: int = 0, browser: bool = True, say: Callable[[str], None] = print
) -> None:
    """Serve until interrupted. `port` 0 takes a free one; `host` other than loopback needs the token in the printed address.

    Raises `MissingExtraError` where the server is not installed, `RunError` when the address is taken.
    """
    require_server()
    import uvicorn
    from rasterio.errors import NotGeoreferencedWarning

    from terralabel.review.app import create_app

    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    with _bound(host, port) as listening:
        house = House.at(host, listening.getsockname()[1])
        config = uvicorn.Config(
            create_app(desk, house),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
            ws="none",
        )
        server = uvicorn.Server(config)
        say(f"reviewing {desk.run.path} at {house.url}  (Ctrl-C ends it; every change is kept the moment it is made)")
        if not is_loopback(host):
            say("anyone with this address can change the run; the connection is not encrypted: use it in a network you trust")
        if browser:
            with contextlib.suppress(webbrowser.Error, OSError):
                webbrowser.open(house.url)
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            server.run(sockets=[listening])
    pending = desk.now().pending
    if pending:
        say(f"{pending:,} changes are in the journal; `terralabel export {desk.run.path}` (and every other verb) takes them in")


def _bound(host: str, port: int) -> socket.socket:
    """A listening socket; bound here, so that nobody else can take the port between."""
    made = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(128)
    except (OSError, OverflowError) as error:
        if made is not None:
            made.close()
        raise RunError(
            f"Cannot serve at {host} port {port}: {error}; choose another with --port, or 0 for a free one."
        ) from error
    return made
