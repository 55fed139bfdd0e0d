"""The Spark ML API: estimators, fitted models, their persistence and their MLflow form."""
