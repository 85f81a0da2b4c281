"""The few-shot protocol: episodes, training of many runs at once, scoring, metrics."""
