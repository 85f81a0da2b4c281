"""Faults on purpose: killed processes, damaged files, full and read-only disks, and what comes of them."""
