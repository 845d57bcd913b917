"""Settings from the command line: parsing, sources of values, and sweeps."""
