"""Fewer bits a number: calibration, rounding, and how graphs and networks hold what was rounded."""
