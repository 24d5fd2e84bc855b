"""The Segment Anything family: what a checkpoint is, its keys in both namings, loading, and the networks."""
