"""Launching of Horovod ranks: one function in N fresh processes, one per task of a Spark barrier stage."""
