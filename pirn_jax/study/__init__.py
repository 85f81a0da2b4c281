"""Studies: all runs of one call, from samples to results, in an output directory that continues where it stopped."""
