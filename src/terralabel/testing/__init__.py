"""Checks for whoever writes a backend, and a tiny one to write tests with.

from terralabel.testing import check_promptable
check_promptable(MyBackend())           # returns nothing, or raises AssertionError saying what the contract asks
"""

from terralabel.testing.flood import FloodPromptable
from terralabel.testing.tiles import sample_tiles

__all__ = ["FloodPromptable", "sample_tiles"]
