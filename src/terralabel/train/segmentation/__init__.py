"""Training of segmentation networks on labelled sets: samples, augmentation, losses, schedule, loop, checkpoints."""
