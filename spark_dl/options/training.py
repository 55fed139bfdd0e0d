"""Options of the training loop. The ranks get this record, so that its values are plain."""

from __future__ import annotations

from dataclasses import dataclass

from spark_dl.options import checks
from spark_dl.options.fields import Options, option

__all__ = ["TrainingOptions"]


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Options):
    """Options of the training loop; the ranks get this record of plain values."""

    batch_size: int = option(
        "Rows in a batch of one worker.",
        checks.integer(1),
        32,
        on_resume="same",
    )
    global_batch_size: int | None = option(
        "Rows in a batch of all workers together, in place of batchSize; the batches then depend only on the seed, "
        "not on the number of workers.",
        checks.integer(1),
        None,
        on_resume="same",
    )
    gradient_accumulation: int = option(
        "The number of batches whose gradients are accumulated before they are averaged over the workers and applied; "
        "at an epoch's end also fewer.",
        checks.integer(1),
        1,
        on_resume="same",
    )
    learning_rate_scaling: str = option(
        "Scale the optimizer's learning rate by numWorkers ('linear') or its square root ('sqrt'), or not ('none').",
        checks.choice("none", "linear", "sqrt"),
        "none",
        on_resume="same",
    )
    warmup_epochs: float = option(
        "Epochs, or a fraction of one, in which the learning rate rises step by step: from the unscaled rate if "
        "learningRateScaling is set, else from 0.",
        checks.number(0),
        0.0,
        on_resume="same",
    )
    compression: str = option(
        "Compression of float32 gradients between workers: 'none', or 'fp16' for float16, half as many bytes "
        "(docs/benchmarks.md measures the effect on accuracy).",
        checks.choice("none", "fp16"),
        "none",
        on_resume="same",
    )
    epochs: int = option(
        "Passes over the training rows.",
        checks.integer(1),
        1,
        on_resume="any",
    )
    initial_epoch: int = option(
        "The epoch at which training starts, counted from 0, as in Keras; `epochs` is the epoch at which it ends.",
        checks.integer(0),
        0,
        on_resume="same",
    )
    jit_compile: bool = option(
        "Whether XLA compiles each worker's forward and backward pass; gradients are averaged and applied outside.",
        checks.boolean,
        False,
        on_resume="any",
    )
    shuffle: bool = option(
        "Whether rows are shuffled again in each epoch.",
        checks.boolean,
        True,
        on_resume="same",
    )
    seed: int = option(
        "Seed of the validation sample, the shuffle, and dropout.",
        checks.integer(0),
        0,
        on_resume="same",
    )
    restore_best_weights: bool = option(
        "Return the weights of the epoch that was best by `monitor`, not of the last.",
        checks.boolean,
        False,
        on_resume="any",
    )
    monitor: str | None = option(
        "The metric that determines the best epoch; not set, val_loss, or loss without validation rows.",
        checks.text,
        None,
        on_resume="same",
    )
    monitor_mode: str = option(
        "Whether the best value of `monitor` is its minimum ('min') or maximum ('max'); 'auto' derives it from the "
        "metric.",
        checks.choice("auto", "min", "max"),
        "auto",
        on_resume="same",
    )
    cache_data: str = option(
        "Where a worker caches the rows that it has read for later epochs: 'memory', 'disk' (of its host), or 'none' "
        "to read them in each epoch; 'auto' reads them until a worker waits for rows more than a fifth of an epoch, "
        "and then caches them on disk if there is room.",
        checks.choice("auto", "none", "memory", "disk"),
        "auto",
        on_resume="any",
    )
    keep_checkpoints: int = option(
        "How many of the latest checkpoints are kept.",
        checks.integer(1),
        2,
        on_resume="any",
    )
    checkpoint_steps: int | None = option(
        "Also write a checkpoint after this number of steps within an epoch; not set, only at its end.",
        checks.integer(1),
        None,
        on_resume="any",
    )
    profile: bool = option(
        "Trace some steps of rank 0 with TensorFlow's profiler; the run's artifact `profile` opens in TensorBoard.",
        checks.boolean,
        False,
        on_resume="any",
    )
