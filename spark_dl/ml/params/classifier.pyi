"""Written by scripts/stubs.py from the options: change those, and run it again."""

from collections.abc import Callable
from typing import Any, Self

from pyspark.ml.param import Param

from spark_dl.ml.params.estimator import EstimatorParams
from spark_dl.options import ClassifierOptions

__all__ = ["ClassifierParams"]

class ClassifierParams(EstimatorParams):
    classWeights: Param[str | dict[int, float] | None]
    probabilityCol: Param[str]
    rawPredictionCol: Param[str]
    thresholds: Param[list[float] | None]
    topK: Param[int | None]
    topKCol: Param[str]
    classLabels: Param[list[str] | None]
    outputKind: Param[str | None]
    stratified: Param[bool]
    balance: Param[str]
    def __init__(
        self,
        *,
        model: Any = None,
        modelFn: Callable[..., Any] | None = None,
        modelParams: dict[str, Any] | None = None,
        warmStart: Any = None,
        optimizer: Any = None,
        learningRate: float | None = None,
        loss: Any = None,
        lossWeights: list[float] | dict[str, float] | None = None,
        metrics: Any = None,
        callbacks: Any = None,
        onEpoch: Callable[..., Any] | None = None,
        transformFn: Any = None,
        augment: Any = None,
        dtypePolicy: str | None = None,
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
        columnShapes: dict[str, list[int]] | None = None,
        validateImages: bool = False,
        validationCol: str | None = None,
        validationData: Any = None,
        validationFraction: float = 0.0,
        reader: str = "auto",
        batchSize: int = 32,
        globalBatchSize: int | None = None,
        gradientAccumulation: int = 1,
        learningRateScaling: str = "none",
        warmupEpochs: float = 0.0,
        compression: str = "none",
        epochs: int = 1,
        initialEpoch: int = 0,
        jitCompile: bool = False,
        shuffle: bool = True,
        seed: int = 0,
        restoreBestWeights: bool = False,
        monitor: str | None = None,
        monitorMode: str = "auto",
        cacheData: str = "auto",
        keepCheckpoints: int = 2,
        checkpointSteps: int | None = None,
        profile: bool = False,
        cpusPerWorker: int | None = None,
        gpusPerWorker: int | None = None,
        threadsPerWorker: int = 0,
        networkInterface: str | None = None,
        allowPlaintext: bool = False,
        slotTimeout: float = 60.0,
        startTimeout: float = 180.0,
        collectiveTimeout: int = 30,
        stallTimeout: float = 600.0,
        storageOptions: dict[str, Any] | None = None,
        numWorkers: int = 1,
        minWorkers: int | None = None,
        maxRestarts: int = 3,
        cacheDir: str | None = None,
        checkpointDir: str | None = None,
        tracking: str | None = "mlflow",
        experimentName: str | None = None,
        runName: str | None = None,
        registeredModelName: str | None = None,
        verbose: int = 1,
        predictionCol: str = "prediction",
        outputCols: list[str] | dict[str, Any] | None = None,
        outputFormat: str = "array",
        errorCol: str | None = None,
        scoreBatchSize: int = 4096,
        scoreEngine: str = "keras",
        scoreNullPolicy: str = "error",
        classWeights: str | dict[int, float] | None = None,
        probabilityCol: str = "probability",
        rawPredictionCol: str = "rawPrediction",
        thresholds: list[float] | None = None,
        topK: int | None = None,
        topKCol: str = "topK",
        classLabels: list[str] | None = None,
        outputKind: str | None = None,
        stratified: bool = False,
        balance: str = "none",
    ) -> None: ...
    def setParams(  # type: ignore[override]
        self,
        *,
        model: Any = ...,
        modelFn: Callable[..., Any] | None = ...,
        modelParams: dict[str, Any] | None = ...,
        warmStart: Any = ...,
        optimizer: Any = ...,
        learningRate: float | None = ...,
        loss: Any = ...,
        lossWeights: list[float] | dict[str, float] | None = ...,
        metrics: Any = ...,
        callbacks: Any = ...,
        onEpoch: Callable[..., Any] | None = ...,
        transformFn: Any = ...,
        augment: Any = ...,
        dtypePolicy: str | None = ...,
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
        columnShapes: dict[str, list[int]] | None = ...,
        validateImages: bool = ...,
        validationCol: str | None = ...,
        validationData: Any = ...,
        validationFraction: float = ...,
        reader: str = ...,
        batchSize: int = ...,
        globalBatchSize: int | None = ...,
        gradientAccumulation: int = ...,
        learningRateScaling: str = ...,
        warmupEpochs: float = ...,
        compression: str = ...,
        epochs: int = ...,
        initialEpoch: int = ...,
        jitCompile: bool = ...,
        shuffle: bool = ...,
        seed: int = ...,
        restoreBestWeights: bool = ...,
        monitor: str | None = ...,
        monitorMode: str = ...,
        cacheData: str = ...,
        keepCheckpoints: int = ...,
        checkpointSteps: int | None = ...,
        profile: bool = ...,
        cpusPerWorker: int | None = ...,
        gpusPerWorker: int | None = ...,
        threadsPerWorker: int = ...,
        networkInterface: str | None = ...,
        allowPlaintext: bool = ...,
        slotTimeout: float = ...,
        startTimeout: float = ...,
        collectiveTimeout: int = ...,
        stallTimeout: float = ...,
        storageOptions: dict[str, Any] | None = ...,
        numWorkers: int = ...,
        minWorkers: int | None = ...,
        maxRestarts: int = ...,
        cacheDir: str | None = ...,
        checkpointDir: str | None = ...,
        tracking: str | None = ...,
        experimentName: str | None = ...,
        runName: str | None = ...,
        registeredModelName: str | None = ...,
        verbose: int = ...,
        predictionCol: str = ...,
        outputCols: list[str] | dict[str, Any] | None = ...,
        outputFormat: str = ...,
        errorCol: str | None = ...,
        scoreBatchSize: int = ...,
        scoreEngine: str = ...,
        scoreNullPolicy: str = ...,
        classWeights: str | dict[int, float] | None = ...,
        probabilityCol: str = ...,
        rawPredictionCol: str = ...,
        thresholds: list[float] | None = ...,
        topK: int | None = ...,
        topKCol: str = ...,
        classLabels: list[str] | None = ...,
        outputKind: str | None = ...,
        stratified: bool = ...,
        balance: str = ...,
    ) -> Self: ...
    def _options(self) -> ClassifierOptions: ...
    def setClassWeights(self, value: str | dict[int, float] | None) -> Self: ...
    def getClassWeights(self) -> str | dict[int, float] | None: ...
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
    def setOutputKind(self, value: str | None) -> Self: ...
    def getOutputKind(self) -> str | None: ...
    def setStratified(self, value: bool) -> Self: ...
    def getStratified(self) -> bool: ...
    def setBalance(self, value: str) -> Self: ...
    def getBalance(self) -> str: ...
