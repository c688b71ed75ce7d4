"""Config, training loop, run folder, memory, scores and plots. Imports neither `dataset` nor `models`."""
