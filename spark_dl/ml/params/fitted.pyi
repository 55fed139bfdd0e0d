"""Written by scripts/stubs.py from the options: change those, and run it again."""

from typing import Any, Self

from pyspark.ml.param import Param

from spark_dl.ml.params.option_params import OptionParams
from spark_dl.options import FittedClassifierOptions, FittedOptions, FittedTaggerOptions

__all__ = ["FittedClassifierParams", "FittedParams", "FittedTaggerParams"]

class FittedParams(OptionParams):
    featuresCol: Param[str]
    inputCols: Param[list[str] | dict[str, Any] | None]
    binaryFormat: Param[str]
    sparseVectors: Param[str]
    labelCol: Param[str | None]
    labelCols: Param[list[str] | dict[str, Any] | None]
    labelShapes: Param[dict[str, list[int]] | None]
    weightCol: Param[str | None]
    nullPolicy: Param[str | dict[str, Any]]
    padding: Param[dict[str, Any] | None]
    truncate: Param[str]
    storageOptions: Param[dict[str, Any] | None]
    predictionCol: Param[str]
    outputCols: Param[list[str] | dict[str, Any] | None]
    outputFormat: Param[str]
    errorCol: Param[str | None]
    scoreBatchSize: Param[int]
    scoreEngine: Param[str]
    scoreNullPolicy: Param[str]
    outputLayer: Param[str | None]
    def __init__(
        self,
        *,
        featuresCol: str = "features",
        inputCols: list[str] | dict[str, Any] | None = None,
        binaryFormat: str = "image",
        sparseVectors: str = "auto",
        labelCol: str | None = "label",
        labelCols: list[str] | dict[str, Any] | None = None,
        labelShapes: dict[str, list[int]] | None = None,
        weightCol: str | None = None,
        nullPolicy: str | dict[str, Any] = "error",
        padding: dict[str, Any] | None = None,
        truncate: str = "error",
        storageOptions: dict[str, Any] | None = None,
        predictionCol: str = "prediction",
        outputCols: list[str] | dict[str, Any] | None = None,
        outputFormat: str = "array",
        errorCol: str | None = None,
        scoreBatchSize: int = 4096,
        scoreEngine: str = "keras",
        scoreNullPolicy: str = "error",
        outputLayer: str | None = None,
    ) -> None: ...
    def setParams(  # type: ignore[override]
        self,
        *,
        featuresCol: str = ...,
        inputCols: list[str] | dict[str, Any] | None = ...,
        binaryFormat: str = ...,
        sparseVectors: str = ...,
        labelCol: str | None = ...,
        labelCols: list[str] | dict[str, Any] | None = ...,
        labelShapes: dict[str, list[int]] | None = ...,
        weightCol: str | None = ...,
        nullPolicy: str | dict[str, Any] = ...,
        padding: dict[str, Any] | None = ...,
        truncate: str = ...,
        storageOptions: dict[str, Any] | None = ...,
        predictionCol: str = ...,
        outputCols: list[str] | dict[str, Any] | None = ...,
        outputFormat: str = ...,
        errorCol: str | None = ...,
        scoreBatchSize: int = ...,
        scoreEngine: str = ...,
        scoreNullPolicy: str = ...,
        outputLayer: str | None = ...,
    ) -> Self: ...
    def _options(self) -> FittedOptions: ...
    def setFeaturesCol(self, value: str) -> Self: ...
    def getFeaturesCol(self) -> str: ...
    def setInputCols(self, value: list[str] | dict[str, Any] | None) -> Self: ...
    def getInputCols(self) -> list[str] | dict[str, Any] | None: ...
    def setBinaryFormat(self, value: str) -> Self: ...
    def getBinaryFormat(self) -> str: ...
    def setSparseVectors(self, value: str) -> Self: ...
    def getSparseVectors(self) -> str: ...
    def setLabelCol(self, value: str | None) -> Self: ...
    def getLabelCol(self) -> str | None: ...
    def setLabelCols(self, value: list[str] | dict[str, Any] | None) -> Self: ...
    def getLabelCols(self) -> list[str] | dict[str, Any] | None: ...
    def setLabelShapes(self, value: dict[str, list[int]] | None) -> Self: ...
    def getLabelShapes(self) -> dict[str, list[int]] | None: ...
    def setWeightCol(self, value: str | None) -> Self: ...
    def getWeightCol(self) -> str | None: ...
    def setNullPolicy(self, value: str | dict[str, Any]) -> Self: ...
    def getNullPolicy(self) -> str | dict[str, Any]: ...
    def setPadding(self, value: dict[str, Any] | None) -> Self: ...
    def getPadding(self) -> dict[str, Any] | None: ...
    def setTruncate(self, value: str) -> Self: ...
    def getTruncate(self) -> str: ...
    def setStorageOptions(self, value: dict[str, Any] | None) -> Self: ...
    def getStorageOptions(self) -> dict[str, Any] | None: ...
    def setPredictionCol(self, value: str) -> Self: ...
    def getPredictionCol(self) -> str: ...
    def setOutputCols(self, value: list[str] | dict[str, Any] | None) -> Self: ...
    def getOutputCols(self) -> list[str] | dict[str, Any] | None: ...
    def setOutputFormat(self, value: str) -> Self: ...
    def getOutputFormat(self) -> str: ...
    def setErrorCol(self, value: str | None) -> Self: ...
    def getErrorCol(self) -> str | None: ...
    def setScoreBatchSize(self, value: int) -> Self: ...
    def getScoreBatchSize(self) -> int: ...
    def setScoreEngine(self, value: str) -> Self: ...
    def getScoreEngine(self) -> str: ...
    def setScoreNullPolicy(self, value: str) -> Self: ...
    def getScoreNullPolicy(self) -> str: ...
    def setOutputLayer(self, value: str | None) -> Self: ...
    def getOutputLayer(self) -> str | None: ...

class FittedClassifierParams(FittedParams):
    probabilityCol: Param[str]
    rawPredictionCol: Param[str]
    thresholds: Param[list[float] | None]
    topK: Param[int | None]
    topKCol: Param[str]
    classLabels: Param[list[str] | None]
    def __init__(
        self,
        *,
        featuresCol: str = "features",
        inputCols: list[str] | dict[str, Any] | None = None,
        binaryFormat: str = "image",
        sparseVectors: str = "auto",
        labelCol: str | None = "label",
        labelCols: list[str] | dict[str, Any] | None = None,
        labelShapes: dict[str, list[int]] | None = None,
        weightCol: str | None = None,
        nullPolicy: str | dict[str, Any] = "error",
        padding: dict[str, Any] | None = None,
        truncate: str = "error",
        storageOptions: dict[str, Any] | None = None,
        predictionCol: str = "prediction",
        outputCols: list[str] | dict[str, Any] | None = None,
        outputFormat: str = "array",
        errorCol: str | None = None,
        scoreBatchSize: int = 4096,
        scoreEngine: str = "keras",
        scoreNullPolicy: str = "error",
        outputLayer: str | None = None,
        probabilityCol: str = "probability",
        rawPredictionCol: str = "rawPrediction",
        thresholds: list[float] | None = None,
        topK: int | None = None,
        topKCol: str = "topK",
        classLabels: list[str] | None = None,
    ) -> None: ...
    def setParams(  # type: ignore[override]
        self,
        *,
        featuresCol: str = ...,
        inputCols: list[str] | dict[str, Any] | None = ...,
        binaryFormat: str = ...,
        sparseVectors: str = ...,
        labelCol: str | None = ...,
        labelCols: list[str] | dict[str, Any] | None = ...,
        labelShapes: dict[str, list[int]] | None = ...,
        weightCol: str | None = ...,
        nullPolicy: str | dict[str, Any] = ...,
        padding: dict[str, Any] | None = ...,
        truncate: str = ...,
        storageOptions: dict[str, Any] | None = ...,
        predictionCol: str = ...,
        outputCols: list[str] | dict[str, Any] | None = ...,
        outputFormat: str = ...,
        errorCol: str | None = ...,
        scoreBatchSize: int = ...,
        scoreEngine: str = ...,
        scoreNullPolicy: str = ...,
        outputLayer: str | None = ...,
        probabilityCol: str = ...,
        rawPredictionCol: str = ...,
        thresholds: list[float] | None = ...,
        topK: int | None = ...,
        topKCol: str = ...,
        classLabels: list[str] | None = ...,
    ) -> Self: ...
    def _options(self) -> FittedClassifierOptions: ...
    def setProbabilityCol(self, value: str) -> Self: ...
    def getProbabilityCol(self) -> str: ...
    def setRawPredictionCol(self, value: str) -> Self: ...
    def getRawPredictionCol(self) -> str: ...
    def setThresholds(self, value: list[float] | None) -> Self: ...
    def getThresholds(self) -> list[float] | None: ...
    def setTopK(self, value: int | None) -> Self: ...
    def getTopK(self) -> int | None: ...
    def setTopKCol(self, value: str) -> Self: ...
    def getTopKCol(self) -> str: ...
    def setClassLabels(self, value: list[str] | None) -> Self: ...
    def getClassLabels(self) -> list[str] | None: ...

class FittedTaggerParams(FittedParams):
    probabilityCol: Param[str]
    tagLabels: Param[list[str] | None]
    tagsCol: Param[str]
    def __init__(
        self,
        *,
        featuresCol: str = "features",
        inputCols: list[str] | dict[str, Any] | None = None,
        binaryFormat: str = "image",
        sparseVectors: str = "auto",
        labelCol: str | None = "label",
        labelCols: list[str] | dict[str, Any] | None = None,
        labelShapes: dict[str, list[int]] | None = None,
        weightCol: str | None = None,
        nullPolicy: str | dict[str, Any] = "error",
        padding: dict[str, Any] | None = None,
        truncate: str = "error",
        storageOptions: dict[str, Any] | None = None,
        predictionCol: str = "prediction",
        outputCols: list[str] | dict[str, Any] | None = None,
        outputFormat: str = "array",
        errorCol: str | None = None,
        scoreBatchSize: int = 4096,
        scoreEngine: str = "keras",
        scoreNullPolicy: str = "error",
        outputLayer: str | None = None,
        probabilityCol: str = "probability",
        tagLabels: list[str] | None = None,
        tagsCol: str = "tags",
    ) -> None: ...
    def setParams(  # type: ignore[override]
        self,
        *,
        featuresCol: str = ...,
        inputCols: list[str] | dict[str, Any] | None = ...,
        binaryFormat: str = ...,
        sparseVectors: str = ...,
        labelCol: str | None = ...,
        labelCols: list[str] | dict[str, Any] | None = ...,
        labelShapes: dict[str, list[int]] | None = ...,
        weightCol: str | None = ...,
        nullPolicy: str | dict[str, Any] = ...,
        padding: dict[str, Any] | None = ...,
        truncate: str = ...,
        storageOptions: dict[str, Any] | None = ...,
        predictionCol: str = ...,
        outputCols: list[str] | dict[str, Any] | None = ...,
        outputFormat: str = ...,
        errorCol: str | None = ...,
        scoreBatchSize: int = ...,
        scoreEngine: str = ...,
        scoreNullPolicy: str = ...,
        outputLayer: str | None = ...,
        probabilityCol: str = ...,
        tagLabels: list[str] | None = ...,
        tagsCol: str = ...,
    ) -> Self: ...
    def _options(self) -> FittedTaggerOptions: ...
    def setProbabilityCol(self, value: str) -> Self: ...
    def getProbabilityCol(self) -> str: ...
    def setTagLabels(self, value: list[str] | None) -> Self: ...
    def getTagLabels(self) -> list[str] | None: ...
    def setTagsCol(self, value: str) -> Self: ...
    def getTagsCol(self) -> str: ...
