"""Commands: flags and wiring; everything else is in `pirn_jax`."""
