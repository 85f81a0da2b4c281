"""The command `pirn`: from good parts to verdicts on new ones."""
