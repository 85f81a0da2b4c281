"""What one runs: flags and wiring; everything else is in `pirn_jax`."""
