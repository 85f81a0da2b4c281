"""Training: episodes, and many runs in one compiled program on one or several devices."""
