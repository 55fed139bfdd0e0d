"""Data plane from a DataFrame to batches: rows become Parquet blocks once, shards assign them to ranks by row range."""
