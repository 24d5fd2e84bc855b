"""Grids of trainings from one file: what to run, what is done, and the table."""
