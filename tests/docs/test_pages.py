"""The written pages: every command, flag, Python name, link and picture in them exists."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer.main

import terralabel
from terralabel.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
ROOT_COMMAND = typer.main.get_command(app)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line for page in PAGES for block in blocks(page, "console") for line in block.splitlines()]
    return sorted({line[2:] for line in lines if line.startswith("$ terralabel ")})


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_there_is_something_to_check() -> None:
    assert len(PAGES) > 10 and len(commands()) > 25


@pytest.mark.parametrize("line", commands())
def test_every_command_in_the_pages_exists_with_its_flags(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command = ROOT_COMMAND
    while hasattr(command, "commands") and words:
        if words[0] not in command.commands and "run" in command.commands:  # `refer SOURCE` is short for `refer run SOURCE`
            command = command.commands["run"]
            break
        assert words[0] in command.commands, f"no such verb: {words[0]!r}; known: {sorted(command.commands)}"
        command = command.commands[words.pop(0)]
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    for word in words:
        if word.startswith("-"):
            assert word.split("=")[0] in known, f"{line!r}: no such flag: {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, fragment = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target} is not there"
        if fragment:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert fragment in {anchor(h) for h in headings}, f"{page.name}: no heading for {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_in_the_pages_parses_and_uses_public_names(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tl":
                assert node.attr in terralabel.__all__, f"{page.name}: terralabel has no public {node.attr!r}"


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", index.read_text(encoding="utf-8"))}
    pages = {page for page in PAGES if "docs" in page.relative_to(ROOT).parts[:1]} - {index}
    assert not pages - linked, f"link them in docs/index.md: {sorted(page.name for page in pages - linked)}"


def test_pictures_are_small() -> None:
    for picture in (ROOT / "docs" / "pictures").rglob("*.jpg"):
        assert picture.stat().st_size <= 400_000, picture.name
