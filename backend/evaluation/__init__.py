"""Measures of how good a result is, and the runs that report them."""
