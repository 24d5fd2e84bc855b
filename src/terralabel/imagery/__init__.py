"""Imagery: sources, windowed reading, one radiometry per data set. See `docs/imagery.md`."""
