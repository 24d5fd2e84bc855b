"""A small promptable network of our own: encode once, then masks for points, boxes and rough masks."""
