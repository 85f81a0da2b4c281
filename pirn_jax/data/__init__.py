"""From files on disk to parts as arrays."""
