"""Prints what becomes of each argument of flash-linear-attention's functions."""

from .table import markdown

print(markdown())
