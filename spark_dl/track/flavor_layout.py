"""The files of a model directory of the MLflow flavor "spark_dl"."""

__all__ = ["FLAVOR", "KERAS", "SCORED", "SERVING", "STAGE", "STAGE_FILES"]

FLAVOR = "spark_dl"
KERAS = "data/model.keras"
# SCORED is followed by the extension of its kind of file.
STAGE, SERVING, SCORED = "spark_dl/stage.json", "spark_dl/serving.json", "spark_dl/scored"
STAGE_FILES = "spark_dl/stage"
