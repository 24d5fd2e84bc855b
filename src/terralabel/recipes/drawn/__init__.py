"""Shapes that people drew in a GIS, as label rasters."""
