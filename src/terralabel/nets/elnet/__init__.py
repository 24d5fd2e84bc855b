"""SAM2-ELNet (arXiv 2503.12404): a trunk with adapters, receptive-field blocks, a decoder with three supervised outputs."""
