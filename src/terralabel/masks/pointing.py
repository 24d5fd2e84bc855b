"""When a foreground point prompts beside the box, in the second stage of `refer`; apart, so that the command line loads nothing heavy."""

from __future__ import annotations

__all__ = ["POINTS"]

#: What may become of the foreground point: asked again with it where the box's mask misses it, always, or never.
POINTS = ("missed", "always", "off")
