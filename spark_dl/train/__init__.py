"""Training on one rank, from its shard of the rows to checkpoints and the final model; nothing here imports pyspark."""
