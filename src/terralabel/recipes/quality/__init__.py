"""Which labels to trust: measured, judged, gated, kept in the run."""
