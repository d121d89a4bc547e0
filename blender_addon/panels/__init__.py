"""Panels: they draw one snapshot of the session and do nothing else."""
