"""Inspection of new parts with a finished run."""
