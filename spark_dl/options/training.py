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
        "Rows in a batch of all workers together, in place of batchSize; the batches then follow from the seed "
        "alone, however many workers there are.",
        checks.integer(1),
        None,
        on_resume="same",
    )
    gradient_accumulation: int = option(
        "Gradients of so many steps are added up, joined over the workers and applied at once; an epoch's last ones "
        "too.",
        checks.integer(1),
        1,
        on_resume="same",
    )
    learning_rate_scaling: str = option(
        "The optimizer's learning rate times numWorkers ('linear'), times its root ('sqrt'), or as it is ('none').",
        checks.choice("none", "linear", "sqrt"),
        "none",
        on_resume="same",
    )
    warmup_epochs: float = option(
        "Epochs, or a part of one, in which the learning rate rises step by step: from the rate of one worker where "
        "it is scaled, else from 0.",
        checks.number(0),
        0.0,
        on_resume="same",
    )
    compression: str = option(
        "How float32 gradients travel between workers: as they are ('none'), or as float16 ('fp16'), half as many "
        "bytes (docs/benchmarks.md tells what that costs in accuracy).",
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
        "The epoch that training begins with, counted from 0, out of `epochs`, as in Keras.",
        checks.integer(0),
        0,
        on_resume="same",
    )
    jit_compile: bool = option(
        "Whether XLA compiles each worker's forward and backward pass; gradients are joined and applied outside of it.",
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
        "Seed of the validation draw, the shuffle, and dropout.",
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
        "The metric that tells the best epoch; val_loss, or loss where there is no validation.",
        checks.text,
        None,
        on_resume="same",
    )
    monitor_mode: str = option(
        "Whether `monitor` is best when least ('min') or greatest ('max'); 'auto' asks the metric.",
        checks.choice("auto", "min", "max"),
        "auto",
        on_resume="same",
    )
    cache_data: str = option(
        "Where a worker keeps the rows that it has read, for the epochs that follow: 'memory', 'disk' (of its host), "
        "or 'none' to read them again; 'auto' does so until a worker waits for rows more than a fifth of an epoch, "
        "and then keeps them on disk where there is room.",
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
        "Write a checkpoint also after so many steps within an epoch; not set, at its end only.",
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
