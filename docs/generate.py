"""Write the reference pages from the code: `make docs`, or `python docs/generate.py [FOLDER]`.

`cli.md` comes from the command tree, `api.md` from signatures and docstrings. Equal code gives equal bytes on every machine:
no terminal is asked, no address or time is written. A test compares the pages in docs/reference with fresh ones.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import typer.main

import terralabel
from terralabel import contracts, errors, registry, testing
from terralabel.cli.main import app
from terralabel.core.settings import sentence
from terralabel.recipes.quality.settings import QualitySettings
from terralabel.recipes.settings import LabelSettings
from terralabel.train.segmentation.settings import PredictSettings, TrainSettings

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Written by `make docs` from the code; change it there. -->"
#: Settings -> the functions that take them.
SETTINGS: dict[type, str] = {
    LabelSettings: "`tl.label`",
    TrainSettings: "`tl.pretrain` and `tl.finetune`",
    PredictSettings: "`tl.predict`",
    QualitySettings: "`tl.quality_fit` and `tl.quality_score`",
}
#: The records that stages share: module of terralabel.core -> names, in the order of reading.
RECORDS = {
    "tile": ("Tile",),
    "grid": ("Window", "TilePlan", "plan_tiles"),
    "georeference": ("Georeference",),
    "scene": ("Scene",),
    "masks": ("Masks",),
    "objects": ("Objects",),
    "classes": ("Classes", "ClassEntry", "IGNORE", "distinct_color"),
    "quality": ("Units", "Signals", "Verdicts"),
    "labelled": ("LabelledSet", "LabelledImage", "ByValue", "ByThreshold", "ByColor", "ByFolder", "ByCoverage", "Drawn"),
}


# ---------------------------------------------------------------------------------------------------------- command line


def commands(command: Any = None, words: tuple[str, ...] = ("terralabel",)) -> Iterator[tuple[str, Any]]:
    """Every command that can be run, with the words that call it, in the order of --help."""
    command = command or typer.main.get_command(app)
    for name, child in command.commands.items():
        if hasattr(child, "commands"):
            yield from commands(child, (*words, name))
        else:
            yield " ".join((*words, name)), child


def cli_page() -> str:
    """The page of all commands."""
    root = typer.main.get_command(app)
    lines = [
        "# Commands",
        "",
        NOTE,
        "",
        prose(root.help or ""),
        "",
        "```text",
        "terralabel [--version] [--help] COMMAND ...",
        "```",
        "",
    ]
    lines += [
        "Exit codes: 0 all good; 2 finished, but some inputs or entries failed; 1 failed; 130 interrupted; 143 stopped by SIGTERM. An error is one line.",
        "",
    ]
    lines += ["| command | |", "|---|---|"]
    for words, command in commands():
        lines.append(f"| [`{words}`](#{words.replace(' ', '-')}) | {cell(first_sentence(command.help))} |")
    for words, command in commands():
        lines += ["", f"## {words}", "", "```text", usage(words, command), "```", "", *described(command.help), ""]
        lines += parameters(command)
    return "\n".join(lines).rstrip() + "\n"


def usage(words: str, command: Any) -> str:
    """One line: arguments, required options, the rest."""
    arguments, needed = [], []
    for item in command.params:
        if item.param_type_name == "argument":
            name = argument_name(item)
            arguments.append(name if item.required else f"[{name}]")
        elif item.required:
            needed.append(f"{item.opts[0]} {item.name.upper()}")
    return " ".join([words, *arguments, *needed, "[OPTIONS]"])


def argument_name(item: Any) -> str:
    name = str(item.metavar or item.name.upper())
    return name if item.nargs == 1 or name.endswith("...") else f"{name}..."


def parameters(command: Any) -> list[str]:
    """Arguments and options as tables; options stand under the headings of --help."""
    arguments = [item for item in command.params if item.param_type_name == "argument"]
    options = [item for item in command.params if item.param_type_name == "option"]
    lines: list[str] = []
    if arguments:
        lines += ["| argument | default | |", "|---|---|---|"]
        lines += [f"| `{cell(argument_name(a))}` | {shown_default(a)} | {cell(a.help)} |" for a in arguments]
    panels = {panel: [o for o in options if panel_of(o) == panel] for panel in dict.fromkeys(map(panel_of, options))}
    for panel, members in panels.items():
        lines += [""] * bool(lines)
        lines += [f"**{panel}**", ""] if panel else []
        lines += ["| option | default | |", "|---|---|---|"]
        lines += [option_row(item) for item in members]
    return lines


def panel_of(option: Any) -> str:
    return getattr(option, "rich_help_panel", None) or ""


def option_row(option: Any) -> str:
    flags = ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))
    text = re.sub(r"\s*\[default: .*\]$", "", option.help or "")
    return f"| {flags} | {shown_default(option)} | {cell(text)} |"


def shown_default(item: Any) -> str:
    """What holds when nothing is given; settings say it in their sentence, since a file may stand in between."""
    said = re.search(r"\[default: (.*)\]$", item.help or "")
    if item.required:
        return "required"
    if said:
        return {"True": "on", "False": "off", "none": "none"}.get(said[1], f"`{said[1]}`")
    if getattr(item, "is_flag", False):
        return "off"
    value = item.default
    return f"`{value}`" if isinstance(value, (str, int, float, Path)) and str(value) else ""


# ---------------------------------------------------------------------------------------------------------------- Python


def api_page() -> str:
    """The page of everything public in Python."""
    lines = ["# Python", "", NOTE, "", *described(without_title(terralabel.__doc__))]
    lines += ["", "## The package", ""]
    for name in terralabel.__all__:
        lines += entry(f"tl.{name}", getattr(terralabel, name), settings=name in {owner.__name__ for owner in SETTINGS})
    lines += ["## Settings", "", *all_settings(), "", "## Errors", "", *module_doc(errors)]
    for name in errors.__all__:
        lines += entry(f"terralabel.errors.{name}", getattr(errors, name))
    lines += ["## Records", ""]
    for module, names in RECORDS.items():
        place = f"terralabel.core.{module}"
        for name in names:
            lines += entry(f"{place}.{name}", getattr(importlib.import_module(place), name))
    lines += ["## Contracts", "", *module_doc(contracts)]
    for name in contracts.__all__:
        lines += entry(f"terralabel.contracts.{name}", getattr(contracts, name))
    lines += ["## Backends by name", "", *backends_table(), "", "## Testing", "", *module_doc(testing)]
    for name in testing.__all__:
        lines += entry(f"terralabel.testing.{name}", getattr(testing, name))
    return "\n".join(lines).rstrip() + "\n"


def without_title(doc: str | None) -> str:
    """What follows the first sentence; an empty first line keeps the indentation of the second."""
    return "\n" + inspect.cleandoc(doc or "").partition("\n\n")[2]


def module_doc(module: ModuleType) -> list[str]:
    return [*described(module.__doc__), ""]


def entry(title: str, value: Any, settings: bool = False) -> list[str]:
    """Heading, signature, docstring; of a class also its public members."""
    lines = [f"### {title}", ""]
    name = title.rpartition(".")[2]
    if inspect.isclass(value):
        base = next(b.__name__ for b in value.__mro__[1:])
        shown = f"class {name}({base})" if issubclass(value, Exception) else constructor(name, value)
        lines += fenced(f"class {name}(**settings)" if settings else shown)
        lines += [*described(own_doc(value)), ""]
        for member, text in members(value):
            lines += [f"- `{member}`" + (f": {prose(text)}" if text else "")]
        lines += [""] if lines[-1] else []
        if settings:
            lines += ["Its fields: see [settings](#settings).", ""]
    elif inspect.isroutine(value):
        lines += [*fenced(signature(name, value)), *described(own_doc(value)), ""]
    else:
        lines += [*fenced(f"{name} = {value!r}" if isinstance(value, (int, str)) else name)]
        lines += [prose(comment_above(title)), ""]
    return lines


def constructor(name: str, value: type) -> str:
    if getattr(value, "_is_protocol", False):
        return f"class {name}(Protocol)"
    own = "__init__" in vars(value)
    return signature(f"class {name}", value) if own else f"class {name}"


class Plain:
    """Shown as it is, without the quotes of an annotation that is kept as text."""

    def __init__(self, text: Any) -> None:
        self.text = text if isinstance(text, str) else inspect.formatannotation(text)

    def __repr__(self) -> str:
        return self.text


def plain_signature(function: Any) -> inspect.Signature:
    """The signature with plain annotations; of a class without a result; what a factory makes is shown as three dots."""
    found = inspect.signature(function)
    shown = []
    for item in found.parameters.values():
        if item.annotation is not item.empty:
            item = item.replace(annotation=Plain(item.annotation))
        if repr(item.default) == "<factory>":
            item = item.replace(default=Plain("..."))
        shown.append(item)
    result = found.return_annotation
    result = found.empty if inspect.isclass(function) or result is found.empty else Plain(result)
    return found.replace(parameters=shown, return_annotation=result)


def signature(name: str, function: Any) -> str:
    """`name(parameters) -> result`, a parameter a line where it is long."""
    found = plain_signature(function)
    whole = f"{name}{found}"
    if len(whole) <= 100:
        return whole
    rows, star = [], False
    for item in found.parameters.values():
        if item.kind is item.VAR_POSITIONAL:
            star = True
        elif item.kind is item.KEYWORD_ONLY and not star:
            rows, star = [*rows, "    *,"], True
        rows.append(f"    {item},")
    arrow = "" if found.return_annotation is found.empty else f" -> {found.return_annotation}"
    return "\n".join([f"{name}(", *rows, f"){arrow}"])


def members(value: type) -> Iterator[tuple[str, str]]:
    """Public methods and properties that a class defines itself: signature and docstring, in the order of the source."""
    if getattr(value, "_is_protocol", False):
        yield from ((f"{name}: {kind}", "") for name, kind in inspect.get_annotations(value).items())
    for name, member in vars(value).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property) or type(member).__name__ == "cached_property":
            yield name, one_paragraph(member.__doc__)
        elif isinstance(member, (classmethod, staticmethod)) or inspect.isfunction(member):
            function = inspect.unwrap(getattr(value, name))
            yield (
                f"{name}{plain_signature(function)}".replace("(self, ", "(").replace("(self)", "()"),
                one_paragraph(member.__doc__),
            )


def own_doc(value: Any) -> str:
    """The docstring somebody wrote: dataclasses without one make up their signature."""
    text = value.__doc__ or ""
    made_up = dataclasses.is_dataclass(value) and text.startswith(f"{getattr(value, '__name__', '')}(")
    return "" if made_up else text


def comment_above(title: str) -> str:
    """The `#:` lines above a constant."""
    module, _, name = title.rpartition(".")
    source = inspect.getsource(importlib.import_module(module)).splitlines()
    at = next(i for i, line in enumerate(source) if re.match(rf"{name}\b.* = ", line) or line.startswith(f"{name} = "))
    start = at
    while source[start - 1].startswith("#:"):
        start -= 1
    return " ".join(line.removeprefix("#:").strip() for line in source[start:at])


def all_settings() -> list[str]:
    """The tables of all settings."""
    lines = ["Settings marked * change how fast or where it runs, not what comes out (on one CPU thread, not one byte)."]
    for owner, functions in SETTINGS.items():
        lines += ["", *settings_table(owner, functions)]
    return lines


def settings_table(owner: type, functions: str) -> list[str]:
    """Every setting: one name in Python and in a YAML file, with dashes on the command line."""
    lines = [
        f"Fields of `{owner.__name__}`: keywords of {functions}, keys of the YAML file of `--config`, and flags (with `-` for `_`).",
        "",
        "| setting | default | range | |",
        "|---|---|---|---|",
    ]
    for item in dataclasses.fields(owner):
        mark = "" if item.metadata.get("results", True) else " *"
        default = (
            f"{item.default:.4g}"
            if isinstance(item.default, float)
            else str(item.default).lower()
            if isinstance(item.default, bool)
            else item.default
        )
        lines.append(
            f"| `{item.name}`{mark} | {'none' if default is None else f'`{default}`'} | {limits(item)} | {cell(sentence(item))} |"
        )
    return lines


def limits(item: Any) -> str:
    low, high = item.metadata.get("low"), item.metadata.get("high")
    return "" if low is None and high is None else f"{low:g} to {high:g}" if high is not None else f"{low:g} or more"


def backends_table() -> list[str]:
    """What comes with the package; other packages add to it by entry points."""
    lines = [
        "`terralabel.registry.create(kind, name, **settings)` makes one; `names(kind)` lists them with those of other packages.",
        "",
    ]
    lines += ["| kind | names |", "|---|---|"]
    return lines + [
        f"| `{kind}` | {', '.join(f'`{n}`' for n in sorted(known))} |" for kind, known in registry._BUILT_IN.items()
    ]


# -------------------------------------------------------------------------------------------------------------- Markdown


def fenced(text: str) -> list[str]:
    return ["```py", text, "```", ""]


def described(doc: str | None) -> list[str]:
    """A docstring as Markdown: paragraphs; examples and what is laid out in columns keep their lines."""
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(doc or "")):
        rows = block.splitlines()
        code = all(row.startswith("    ") for row in rows if row)
        if ">>> " in block:
            lines += ["```pycon", *(row.strip().replace("  # doctest: +SKIP", "") for row in rows), "```", ""]
        elif rows and (code or any(re.search(r"\S {3,}\S|^ +", row) for row in rows)):
            indent = 4 if code else 0
            lines += ["```text", *(row[indent:] for row in rows), "```", ""]
        elif rows:
            lines += [prose(" ".join(rows)), ""]
    return lines[:-1] if lines else []


def one_paragraph(doc: str | None) -> str:
    return " ".join(inspect.cleandoc(doc or "").split())


def first_sentence(doc: str | None) -> str:
    return inspect.cleandoc(doc or "").partition("\n\n")[0].replace("\n", " ")


def prose(text: str) -> str:
    """Plain words as Markdown: what would be markup is escaped, code between backticks is left."""
    parts = re.split(r"(``.+?``|`[^`]*`)", text)
    return "".join(part if i % 2 else re.sub(r"([*<\[\]])", r"\\\1", part) for i, part in enumerate(parts))


def cell(text: str | None) -> str:
    return prose(" ".join((text or "").split())).replace("|", "\\|")


def write(folder: Path) -> list[Path]:
    """Write both pages into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"cli.md": cli_page(), "api.md": api_page()}
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in pages]


if __name__ == "__main__":
    for path in write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER):
        print(path)
