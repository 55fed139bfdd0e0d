"""From a DataFrame to batches: converted once into packed Parquet, planned into shards, read by row ranges."""
