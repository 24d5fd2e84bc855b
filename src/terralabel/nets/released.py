"""Models of transformers as they are released: a folder, or a repository on the hub, with configuration, weights and processor."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from terralabel.errors import WeightsError
from terralabel.nets.backbones import package, quiet
from terralabel.nets.checkpoints import check
from terralabel.nets.hub import hub_folder
from terralabel.nets.pickles import printable

__all__ = ["load_released", "released_folder"]

#: Errors of transformers for what is not there, damaged, or of another kind.
_ERRORS = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError)


def released_folder(argument: str, files: Sequence[str], flag: str, optional: Sequence[str] = ()) -> Path:
    """The folder of `argument`: a folder, or a hub name ("owner/name") that is fetched where downloads are allowed.

    `files` must be in it, weights apart. Raises `WeightsError`, with the way out; `flag` is what a person may give instead.
    """
    given = Path(argument).expanduser()
    if given.is_dir():
        missing = [name for name in files if not name.endswith(".safetensors") and not (given / name).is_file()]
        if missing:
            raise WeightsError(
                f"{given}: no {missing[0]} in this folder; expected what `save_pretrained` of model and processor write."
            )
        return given
    if given.is_absolute() or argument.startswith((".", "~")) or argument.count("/") != 1:
        raise WeightsError(f"{argument}: no such folder; expected a folder that `save_pretrained` wrote, or a hub name.")
    return hub_folder(argument, files, flag, optional)


def load_released(factory: Any, processing: Any, folder: Path, what: str) -> tuple[Any, Any, str]:
    """(network in evaluation mode, its processor, sha256 of the weights) of a folder; only safetensors, never remote code.

    `factory` and `processing` are classes of transformers with `from_pretrained`; `what` is how a message calls the model.
    Raises `WeightsError` for damaged weights, and for those of another architecture, naming the first keys.
    """
    transformers = package("transformers")
    found = sorted(folder.glob("*.safetensors"))
    sums = [check(file).sha256 for file in found]
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet(transformers.logging):
            seen = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}  # refused below
            net, info = factory.from_pretrained(str(folder), **seen, **options)
            processor = processing.from_pretrained(str(folder), **options)
    except _ERRORS as error:
        raise WeightsError(f"{folder}: no {what} of transformers ({' '.join(printable(error).split())[:200]}).") from error
    lost = sorted([*info["missing_keys"], *(str(key[0]) for key in info.get("mismatched_keys", ()))])
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise WeightsError(
            f"{folder}: the weights are of another architecture: missing or of another size {', '.join(lost[:3])}{more}."
        )
    return net.eval(), processor, hashlib.sha256("".join(sums).encode()).hexdigest()
