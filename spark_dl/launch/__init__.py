"""N copies of one function, each a Horovod rank in a fresh process, gang-scheduled by Spark."""
