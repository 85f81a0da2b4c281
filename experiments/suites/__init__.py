"""What `experiments.benchmark` measures, one module a suite."""
