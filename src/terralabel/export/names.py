"""Under which name an image appears in folders that are keyed by file stem."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from terralabel.core.scene import Scene
from terralabel.errors import SpaceError

__all__ = ["image_names", "link_image", "relative_sources"]


def relative_sources(scenes: Iterable[Scene]) -> dict[str, PurePosixPath]:
    """Scene key -> path of its image below the folder that all images share, so that no name of this machine leaks."""
    sources = {scene.key: Path(scene.source) for scene in scenes}
    if not sources:
        return {}
    absolute = {key: Path(os.path.abspath(path)) for key, path in sources.items()}
    base = os.path.commonpath([path.parent for path in absolute.values()])
    return {key: PurePosixPath(path.relative_to(base).as_posix()) for key, path in absolute.items()}


def image_names(scenes: Iterable[Scene]) -> dict[str, PurePosixPath]:
    """Scene key -> name without suffix, unique also where case is folded.

    The image's own stem; stems that collide get the folders below the shared one in front; what still collides, or is
    too long for a file name, is the scene's key.
    """
    scenes = list(scenes)
    where = relative_sources(scenes)
    names = {scene.key: PurePosixPath(scene.stem) for scene in scenes}
    for longer in (lambda s: where[s.key].parent / s.stem, lambda s: PurePosixPath(s.key)):
        count = Counter(str(name).casefold() for name in names.values())
        for scene in scenes:
            name = names[scene.key]
            if count[str(name).casefold()] > 1 or len(os.fsencode(name.name)) > 250:
                names[scene.key] = longer(scene)
    return names


def link_image(source: Path, final: Path) -> Path:
    """A symbolic link `final` to the input image, replacing one that is there; images are not copied."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".tmp-{os.getpid()}-link")
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path(os.path.abspath(source)))
        os.replace(temporary, final)
    except OSError as error:
        raise SpaceError(
            f"Cannot link {final} to the image: {error.strerror}. Export with images=true to write 8-bit copies instead."
        ) from error
    return final
