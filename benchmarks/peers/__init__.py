"""farthing beside its peers on the same weights, machine and run: `python -m benchmarks.peers --help`."""
