"""One command that tests, measures and trains on a machine with a GPU."""
