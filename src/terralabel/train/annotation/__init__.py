"""SAM2-ELNet's training and inference: the structure loss, and several views of every window."""
