"""Smaller and faster forms of a fitted model: quantized, exported, or computed by another engine than Keras."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from spark_dl.data.specs import FeatureSpec
from spark_dl.errors import OptionError, StoreError, explain, hint
from spark_dl.io.store import Store
from spark_dl.ml.fitted_content import FittedContent
from spark_dl.ml.savable_objects import refuse_missing, savable
from spark_dl.score.engines import KERAS, Loadable, check_columns, extension
from spark_dl.score.heads import Head
from spark_dl.score.scoring_model import ScoringModel

__all__ = ["Shrinking"]

_MODES = ("int8", "int4")
_FORMATS = ("litert", "onnx", "saved_model")


class Shrinking(FittedContent):
    """Base of fitted models that can be quantized, exported and scored by another engine."""

    def _init_state(self) -> None:
        super()._init_state()
        # The last converted file with the engine and the Keras model that it was made of.
        self._engine_file: tuple[str, bytes, bytes] = ("", b"", b"")

    def quantize(self, mode: str = "int8") -> Self:
        """Return a copy whose Dense, EinsumDense and Embedding layers have small integers as weights, as Keras has it.

        Layers within other layers, such as those of MultiHeadAttention, stay as they are: Keras couldn't load them.

        The copy is a Transformer of the same class and params, with a uid of its own. This model doesn't change. The
        copy's numbers differ a little from this model's: compare their metrics with `evaluate`.

        Args:
            mode: "int8", or "int4", whose weights need half of that.

        Raises:
            OptionError: There is no such mode.
            ModelError: The model has no layer that Keras quantizes, or is quantized already.
        """
        if mode not in _MODES:
            raise OptionError(
                explain(
                    f"Can't quantize to {mode!r}.", expected=" or ".join(_MODES), received=mode, fix=hint(mode, _MODES)
                )
            )
        content, objects = self._fitted_content(), self._named_objects()
        refuse_missing(content, objects)
        from spark_dl.score.quantizing import quantized

        made = type(self)()
        self._copyValues(made)
        return made._with_content(
            quantized(content, objects, mode),
            self._custom_objects,
            self._inputs,
            self._outputs,
            self._fitted_head(),
            self._columns,
            self.summary,
        )

    def export(self, path: str | os.PathLike[str], format: str = "onnx", **options: Any) -> None:
        """Write the model for programs other than Spark and Keras: what `transform` computes, without the columns.

        Args:
            path: A new local file that ends with ".onnx" or ".tflite", or a new directory for a SavedModel.
            format: "onnx" (needs the extra `onnx`), "litert", or "saved_model".
            options: Further arguments of `keras.Model.export` for the format, such as `opset_version`, or LiteRT's
                `optimizations` and `representative_dataset`.

        Raises:
            OptionError: There is no such format or argument, the path has another ending, or a package is missing.
            StoreError: The path exists, or isn't local.
            ModelError: The format can't express a layer of the model.
        """
        if format not in _FORMATS:
            raise OptionError(
                explain(
                    f"Can't export to {format!r}.",
                    expected=", ".join(_FORMATS),
                    received=format,
                    fix=hint(format, _FORMATS),
                )
            )
        ending = "" if format == "saved_model" else f".{extension(format)}"
        target = Store.at(path)
        if not target.is_local:
            raise StoreError(
                explain(
                    f"{path} isn't local.",
                    expected="a local path",
                    received=target.url,
                    fix="Export, then copy the file.",
                )
            )
        if not target.url.endswith(ending):
            raise OptionError(
                explain(
                    f"The file for {format} has the wrong ending.",
                    expected=f"a path that ends with {ending}",
                    received=path,
                    fix=f"Add {ending}.",
                )
            )
        if os.path.lexists(target.path):
            raise StoreError(
                explain(
                    f"{path} already exists.",
                    expected="a new path",
                    received=target.path,
                    fix="Choose another path, or remove it.",
                )
            )
        from spark_dl.score.engine_files import export_model

        content, _ = self._scored()
        objects = self._named_objects()
        refuse_missing(content, objects)
        export_model(Loadable(content, objects, self._rows_by_input()), Path(target.path), format, options)

    def _scored(self) -> tuple[bytes, Head]:
        """Return the `.keras` bytes of the model that transform calls, and its output's meaning."""
        raise NotImplementedError

    def _scoring_model(self, content: bytes, head: Head, features: Sequence[FeatureSpec]) -> ScoringModel:
        """Return the scoring model of `_scored`, in the form that the engine of scoreEngine reads.

        Args:
            content: The `.keras` bytes of what is scored.
            head: The meaning of its output.
            features: The specification of each input; none where each call adds them.
        """
        options = self._options()
        engine, size, nulls = options.score_engine, options.score_batch_size, options.score_null_policy
        if engine == KERAS:
            return ScoringModel.of(content, self._carried_objects(), features, head, size, nulls)
        check_columns(engine, features)
        return ScoringModel.of(self._converted(content, engine), b"", features, head, size, nulls, engine)

    def _served_file(self, content: bytes, features: Sequence[FeatureSpec]) -> bytes:
        """Return the file that serving reads, of the engine of scoreEngine, as `_scoring_model` takes its arguments."""
        engine = self._options().score_engine
        if engine == KERAS:
            return savable(content, self._named_objects())
        check_columns(engine, features)
        return self._converted(content, engine)

    def _converted(self, content: bytes, engine: str) -> bytes:
        """Return an engine's file, which is made once for a model."""
        if self._engine_file[:2] != (engine, content):
            from spark_dl.score.engine_files import convert_model

            objects = self._named_objects()
            refuse_missing(content, objects)
            file = convert_model(Loadable(content, objects, self._rows_by_input()), engine)
            self._engine_file = (engine, content, file)
        return self._engine_file[2]

    def _rows_by_input(self) -> dict[str, tuple[tuple[int, ...], str]]:
        return {one.name: (one.shape, one.dtype) for one in self._inputs}
