"""What one runs to prepare for studies; like `experiments`, flags and wiring only."""
