"""Pretraining of the built-in encoder: endless made-up surfaces, and the task set on them."""
