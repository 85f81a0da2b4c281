"""What the built-in encoder learns from: endless made-up surfaces, and the task set on them."""
