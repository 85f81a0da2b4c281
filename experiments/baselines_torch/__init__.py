"""What a user of PyTorch would run instead, for comparison; needs the `convert` extra."""
