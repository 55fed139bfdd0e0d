"""Internals of other libraries, one module per library: the only place that depends on their private names."""
