"""Labels from a few, and better ones from coarse ones: training, applying, enhancing."""
