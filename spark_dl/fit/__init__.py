"""The driver side of a fit: spec, checks, conversion, training attempts and checkpoint directory."""
