"""Which clips of a source can be used: features, near-duplicates and cuts, found in worker processes."""
