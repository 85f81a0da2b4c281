"""Preparation of studies: data sets, weights, the built-in encoder; flags and console that all commands share."""
