"""A fitted model scores DataFrames: feature columns go to Python in Arrow batches, nothing else does."""
