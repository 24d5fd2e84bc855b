"""The texts of `refer` from a command line or a file: an ontology of text -> class."""

from __future__ import annotations

from pathlib import Path

import yaml

from terralabel.errors import InputError, SettingsError

__all__ = ["asked_for", "read_queries"]

_MAX_BYTES = 4 << 20


def asked_for(text: str | None, queries: Path | None) -> str | dict[str, str]:
    """One text, or those of a file; `SettingsError` unless exactly one of the two is given."""
    if (text is None) == (queries is None):
        raise SettingsError('Say what to find, one way: --text "the largest building", or --queries FILE with several texts.')
    if queries is not None:
        return read_queries(queries)
    assert text is not None
    return text


def read_queries(path: Path) -> dict[str, str]:
    """Texts and the class of each from YAML or JSON, `text: class`; a list of texts makes each a class of its own."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} is too large for a file of texts.", "not-queries")
        data = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}.", "not-queries") from error
    if isinstance(data, list):
        data = {text: text for text in data if isinstance(text, str)} if all(isinstance(t, str) for t in data) else None
    if not isinstance(data, dict) or not data:
        raise InputError(f"{path}: expected lines of `text: class`, as in `the red roofs: roof`.", "not-queries")
    wrong = [text for text, name in data.items() if not isinstance(text, str | int) or not isinstance(name, str | int)]
    if wrong:
        raise InputError(f"{path}: {str(wrong[0])[:60]!r}: expected a text and one class.", "not-queries")
    return {str(text): str(name) for text, name in data.items()}
