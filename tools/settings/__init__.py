"""Settings from the command line: where each comes from, and sweeps over them."""
