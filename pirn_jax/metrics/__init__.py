"""Detection and localisation metrics: exact by default, with the sampled form of public codes as an option."""
