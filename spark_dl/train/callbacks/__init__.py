"""Keras callbacks that run on each rank, one file each."""
