"""Networks that find what a text says as boxes: those of transformers, and a small one of our own that learns from a few triplets."""
