"""The verb that opens a run in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from terralabel.cli.results import RunArgument

__all__ = ["review"]


def review(
    run: RunArgument,
    host: Annotated[str, typer.Option("--host", help="Address to serve at; others than loopback need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to serve at; 0: a free one.", min=0, max=65535)] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    author: Annotated[
        str, typer.Option("--author", help="Who reviews; kept with every change. Default: the user's name.")
    ] = "",
    truth: Annotated[
        Path | None, typer.Option("--truth", help="Folder of a few class-id masks with the images' stems: suggests names.")
    ] = None,
    names: Annotated[
        str, typer.Option("--names", help="Names of the true classes: 1=building,2=road or a class map JSON.")
    ] = "",
    words: Annotated[
        str,
        typer.Option(
            "--words",
            help="Words to call classes by, comma-separated or a .txt file: suggests the likeliest, by a text encoder.",
        ),
    ] = "",
    text_encoder: Annotated[
        str,
        typer.Option("--text-encoder", help="CLIP or SigLIP for that: a folder as `save_pretrained` writes, or a hub name."),
    ] = "",
) -> int:
    """Turn clusters into named classes, and doubtful labels into sure ones, on a page in the browser.

    Every change is kept the moment it is made; `export` and every other verb take it in, and reruns keep it.

    Examples: `terralabel review run` · `terralabel review run --truth masks --names 1=building,2=road` ·
    `terralabel review run --words "building, road, water" --text-encoder clip/` ·
    `terralabel review run --host 0.0.0.0 --port 8000 --no-browser`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.review import serving

    serving.require_server()
    desk = serving.open_desk(
        run, author=author, truth=truth, names=names, words=words, text_encoder=text_encoder, progress=terminal_progress()
    )
    serving.review(desk, host=host, port=port, browser=browser)
    return 0
