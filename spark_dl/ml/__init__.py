"""Spark ML's face: estimators, fitted models, their persistence and their MLflow form."""
