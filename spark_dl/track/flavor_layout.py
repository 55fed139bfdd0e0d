"""The files of a model directory of the MLflow flavor "spark_dl"."""

__all__ = ["FLAVOR", "KERAS", "SCORED", "SERVING", "STAGE", "STAGE_FILES"]

FLAVOR = "spark_dl"
KERAS = "data/model.keras"
STAGE, SERVING, SCORED = "spark_dl/stage.json", "spark_dl/serving.json", "spark_dl/scored.keras"
STAGE_FILES = "spark_dl/stage"
