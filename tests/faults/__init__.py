"""Faults put in on purpose, one after the other, each from a seed. What must hold stands in README.md beside this."""
