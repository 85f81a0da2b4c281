"""The same methods and encoder in PyTorch, for comparison; needs the `convert` extra."""
