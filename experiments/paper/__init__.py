"""Tables and figures of the PIRN paper, ours beside the published numbers: `python -m experiments.paper --table=2`."""
