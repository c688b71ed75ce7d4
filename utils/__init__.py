"""Configuration, training, evaluation, reading, serving, files and plots. Imports neither `dataset` nor `models`."""
