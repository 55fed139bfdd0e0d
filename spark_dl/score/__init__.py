"""Scoring and evaluation of a fitted model, on DataFrames, on Parquet files and without Spark."""
