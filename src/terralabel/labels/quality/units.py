"""What the quality of labels is told of, and from where on they are rejected; apart, so that the command line loads nothing heavy."""

from __future__ import annotations

__all__ = ["REJECT", "UNITS"]

#: What is judged: a class in a picture (the paper's label), or each object (connected part, 8 neighbours) of it.
UNITS = ("class", "object")
#: A label whose expected IoU is lower is rejected: drawing it anew is less work than mending it.
REJECT = 0.5
