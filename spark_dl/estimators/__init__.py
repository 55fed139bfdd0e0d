"""The Spark ML face: Estimators that train, Models that score."""
