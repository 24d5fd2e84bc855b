"""How good an automatic label is, without truth: signals, a judge that is fitted on a few true labels, and a gate."""
