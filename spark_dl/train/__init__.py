"""What one rank does: from its shard of the rows to a checkpoint. Nothing here imports pyspark."""
