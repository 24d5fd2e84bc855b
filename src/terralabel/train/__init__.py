"""Training of the networks that come with the package: one command from nothing to the shipped file."""
