"""How the work of a run is cut: scenes into groups, tiles into shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from terralabel.core.grid import TilePlan, plan_tiles
from terralabel.core.scene import Scene

__all__ = ["NETWORK_SHARD_TILES", "Group", "Shard", "plan_groups"]

#: A shard is what one worker does at once and what a crash costs at most.
_SHARD_PIXELS = 6_000_000
_SHARD_TILES = 64
#: The same where a network makes the masks: a tile takes it seconds to minutes, whatever its size.
NETWORK_SHARD_TILES = 2
#: Pixels of a tile that a shard of more of them is meant for.
_NETWORK_PIXELS = 1 << 20


@dataclass(frozen=True)
class Shard:
    """Consecutive tiles whose masks and features go into one part each; all of one group."""

    name: str
    tiles: tuple[TilePlan, ...]


@dataclass(frozen=True)
class Group:
    """Scenes whose objects and labels are made together: one large scene, or as many small ones as fill a shard."""

    name: str
    scenes: tuple[Scene, ...]
    shards: tuple[Shard, ...]

    def tiles_of(self, scene: str) -> list[tuple[Shard, int, TilePlan]]:
        """The tiles of a scene in plan order: (shard, position in the shard, plan)."""
        return [(s, i, t) for s in self.shards for i, t in enumerate(s.tiles) if t.scene == scene]


def plan_groups(scenes: Iterable[Scene], tile_size: int, overlap: int, network_tiles: int = 0) -> list[Group]:
    """Cut scenes, in order, into groups and their tiles into shards: the same for the same scenes and sizes.

    `network_tiles`: tiles of a shard where a network makes the masks; 0 where none does.

    A group is named by its first scene and may begin at a scene whose name says so, whatever stands before it. So one
    image more or less among 100,000 changes the group it falls into, not all those behind it.
    """
    groups: list[Group] = []
    most = network_tiles or _SHARD_TILES
    pixels = max(_SHARD_PIXELS, network_tiles * _NETWORK_PIXELS)
    for members in _fill(scenes):
        name = _mark(members[0]).hex()[:12]
        tiles = [t for s in members for t in plan_tiles(s.key, s.width, s.height, tile_size, overlap)]
        shards = tuple(Shard(f"{name}-{i:05d}", tuple(chunk)) for i, chunk in enumerate(_chunks(tiles, most, pixels)))
        groups.append(Group(name, tuple(members), shards))
    return groups


def _mark(scene: Scene) -> bytes:
    return hashlib.sha256(scene.key.encode("utf-8", "surrogateescape")).digest()


def _may_begin(scene: Scene) -> bool:
    """True for one scene in 48, by its name alone."""
    return int.from_bytes(_mark(scene)[-4:], "big") % 48 == 0


def _fill(scenes: Iterable[Scene]) -> Iterator[list[Scene]]:
    """Consecutive scenes up to a shard's worth; a larger scene stands alone."""
    members: list[Scene] = []
    pixels = 0
    for scene in scenes:
        size = scene.width * scene.height
        if members and (pixels + size > _SHARD_PIXELS or len(members) >= _SHARD_TILES or _may_begin(scene)):
            yield members
            members, pixels = [], 0
        members.append(scene)
        pixels += size
    if members:
        yield members


def _chunks(tiles: list[TilePlan], most: int, most_pixels: int) -> Iterator[list[TilePlan]]:
    chunk: list[TilePlan] = []
    pixels = 0
    for tile in tiles:
        if chunk and (pixels + tile.window.area > most_pixels or len(chunk) >= most):
            yield chunk
            chunk, pixels = [], 0
        chunk.append(tile)
        pixels += tile.window.area
    if chunk:
        yield chunk
