"""A linear-chain conditional random field for sequences of tags, as a Keras layer and its loss.

Lafferty, McCallum, Pereira: Conditional Random Fields (2001); on top of a neural net, with transitions from the start
and to the end: Lample et al., Neural Architectures for Named Entity Recognition (2016).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from spark_dl.errors import ModelError, OptionError, explain

__all__ = ["CRF", "CRFLoss", "Chain", "log_likelihoods", "posteriors", "viterbi"]

# The attribute by which an output carries its chain to the loss, as Keras's softmax carries its logits.
_CHAIN = "spark_dl_crf"
_OUTPUTS = ("viterbi", "posterior")


class Chain(NamedTuple):
    """The potentials of a batch of sequences, in log space.

    Attributes:
        scores: The score of each tag at each position, (batch, steps, tags).
        transitions: The score of each pair of consecutive tags, (tags, tags), from row to column.
        start: The score of each first tag, (tags,).
        end: The score of each last tag, (tags,).
        mask: True at the positions that count, (batch, steps). Those on both sides of others are neighbours.
    """

    scores: Any
    transitions: Any
    start: Any
    end: Any
    mask: Any


@keras.saving.register_keras_serializable("spark_dl")
class CRF(keras.layers.Layer):
    """Linear-chain conditional random field: finds the best sequence of tags, not each position's best tag.

    It takes scores of shape (batch, steps, tags), such as those of `Dense(tags)`, and learns how well tags follow each
    other. The model is trained with `CRFLoss`, and the layer has to be its last one.

    The output is float32 of shape (batch, steps, tags), whose greatest number at each position is the tag: of the most
    probable sequence, 1 for its tag and 0 for others ("viterbi"); or the probability of each tag at its position over
    all sequences ("posterior"), which may combine tags that can't follow each other. Positions that the mask leaves out
    have tag 0. The mask comes from the layers before, such as `Embedding(mask_zero=True)`, and ends here: the loss
    has it.

    Args:
        output: "viterbi" or "posterior".
        others: Those of any layer, such as name.

    Raises:
        OptionError: output is neither of both.

    Example:

        >>> import keras, numpy as np
        >>> from spark_dl.layers import CRF, CRFLoss
        >>> model = keras.Sequential([keras.Input((6, 4)), keras.layers.Dense(3), CRF()])
        >>> model.compile("adam", CRFLoss())
        >>> labels = np.array([[0, 1, 2, 0, -1, -1], [1, 1, 0, 2, 2, 1]])
        >>> history = model.fit(np.ones((2, 6, 4)), labels, verbose=0)
        >>> model.predict(np.ones((2, 6, 4)), verbose=0).argmax(axis=-1).shape
        (2, 6)
    """

    def __init__(self, output: str = "viterbi", **others: Any) -> None:
        super().__init__(**others)
        if output not in _OUTPUTS:
            raise OptionError(
                explain(
                    "CRF can't have this output.",
                    expected=" or ".join(map(repr, _OUTPUTS)),
                    received=repr(output),
                    fix="Choose 'viterbi' for the most probable sequence.",
                )
            )
        self.kind = output
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Create the transition scores, all 0: every sequence is as likely as its scores say."""
        if len(input_shape) != 3 or input_shape[-1] is None:
            raise ModelError(
                explain(
                    "CRF takes a score for each tag at each position.",
                    expected="an input of shape (batch, steps, tags)",
                    received=str(tuple(input_shape)),
                    fix="Put Dense(tags) in front of it.",
                )
            )
        tags = input_shape[-1]
        self.transitions = self.add_weight(shape=(tags, tags), initializer="zeros", name="transitions")
        self.start = self.add_weight(shape=(tags,), initializer="zeros", name="start")
        self.end = self.add_weight(shape=(tags,), initializer="zeros", name="end")
        self.built = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """Return the output, (batch, steps, tags), which carries the chain to `CRFLoss`."""
        scores = ops.cast(inputs, "float32")
        present = ops.ones(ops.shape(scores)[:2], "bool") if mask is None else ops.cast(mask, "bool")
        transitions, start, end = (ops.cast(one, "float32") for one in (self.transitions, self.start, self.end))
        chain = Chain(scores, transitions, start, end, present)
        if self.kind == "viterbi":
            result = ops.one_hot(viterbi(chain), scores.shape[-1], dtype="float32")
        else:
            result = posteriors(chain)
        setattr(result, _CHAIN, chain)
        return result

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        """End the mask: Keras would divide the loss of whole sequences by its positions."""
        return

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the layer."""
        return {**super().get_config(), "output": self.kind}


@keras.saving.register_keras_serializable("spark_dl")
class CRFLoss(keras.losses.Loss):
    """Negative log-likelihood of the labelled sequences under a `CRF`, which is the last layer of the model.

    Labels are tags of shape (batch, steps), where a negative number is no label: the position is left out, as by the
    mask. Or they are one-hot, of shape (batch, steps, tags), and all zeros for no label. The loss of a sequence is the
    sum over its positions, and that of a batch the mean over its sequences, so that several workers give the gradient
    of their global batch, however many positions each has. A sequence without positions has the loss 0.

    Args:
        name: The name of the loss.
        others: Those of any loss.
    """

    # The label for "no tag", and that a batch's loss is the mean over its rows, whatever their positions.
    no_label = -1
    mean_over_rows = True

    def __init__(self, name: str = "crf_loss", **others: Any) -> None:
        super().__init__(name=name, **others)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each sequence, (batch,)."""
        chain = getattr(y_pred, _CHAIN, None)
        if chain is None:
            raise ModelError(
                explain(
                    "CRFLoss takes the output of a CRF layer as it is.",
                    expected="a model whose output is that of spark_dl.layers.CRF, in float32",
                    received="another tensor",
                    fix="Make CRF the last layer of the model, with the dtype float32.",
                )
            )
        return -log_likelihoods(chain, y_true)


def log_likelihoods(chain: Chain, labels: Any) -> Any:
    """Return the logarithm of the probability of each labelled sequence.

    Args:
        chain: The potentials.
        labels: Tags (batch, steps), negative for none; or one-hot (batch, steps, tags), zeros for none.

    Returns:
        float32 of shape (batch,), 0 for a sequence without positions.
    """
    if len(labels.shape) == 3:
        chosen = ops.cast(labels, "float32")
        labelled = ops.any(labels > 0, axis=-1)
    else:
        labelled = labels >= 0
        chosen = ops.one_hot(ops.cast(ops.maximum(labels, 0), "int32"), chain.scores.shape[-1], dtype="float32")
    chain = chain._replace(mask=ops.logical_and(chain.mask, labelled))

    def step(carry: Any, now: Any) -> Any:
        alpha, score, last, begun = carry
        scores, tag, present = now
        after = ops.logsumexp(alpha[:, :, None] + chain.transitions[None], axis=1)
        link = ops.sum(ops.matmul(last, chain.transitions) * tag, axis=-1, keepdims=True)
        first = ops.sum(chain.start[None] * tag, axis=-1, keepdims=True)
        alpha_now = ops.where(begun, after, chain.start[None]) + scores
        score_now = score + ops.where(begun, link, first) + ops.sum(scores * tag, axis=-1, keepdims=True)
        return (
            ops.where(present, alpha_now, alpha),
            ops.where(present, score_now, score),
            ops.where(present, tag, last),
            ops.logical_or(begun, present),
        )

    scores, present = _in_time(chain)
    none = ops.zeros_like(scores[0])
    carry = (none, none[:, :1], none, none[:, :1] > 0)
    states = tf.scan(step, (scores, ops.transpose(chosen, (1, 0, 2)), present), carry)
    alpha, score, last, begun = (state[-1] for state in states)
    all_paths = ops.logsumexp(alpha + chain.end[None], axis=-1)
    path = score[:, 0] + ops.sum(last * chain.end[None], axis=-1)
    return ops.where(begun[:, 0], path - all_paths, 0.0)


def viterbi(chain: Chain) -> Any:
    """Return the most probable sequence of tags: int32 of shape (batch, steps), 0 where the mask is False."""
    tags = ops.cast(ops.zeros_like(chain.scores[:, 0]), "int32") + ops.arange(chain.scores.shape[-1], dtype="int32")

    def forward(carry: Any, now: Any) -> Any:
        best, begun, _ = carry
        scores, present = now
        paths = best[:, :, None] + chain.transitions[None]
        best_now = ops.where(begun, ops.max(paths, axis=1), chain.start[None]) + scores
        follows = ops.logical_and(present, begun)
        before = ops.where(follows, ops.cast(ops.argmax(paths, axis=1), "int32"), tags)
        return (ops.where(present, best_now, best), ops.logical_or(begun, present), before)

    def backward(tag: Any, before: Any) -> Any:
        return ops.take_along_axis(before, tag, axis=1)

    scores, present = _in_time(chain)
    none = ops.zeros_like(scores[0])
    best, _, before = tf.scan(forward, (scores, present), (none, none[:, :1] > 0, tags))
    last = ops.cast(ops.argmax(best[-1] + chain.end[None], axis=-1), "int32")[:, None]
    earlier = tf.scan(backward, before, last, reverse=True)  # the tag before each position
    path = ops.concatenate([earlier[1:], last[None]], axis=0)[:, :, 0]
    return ops.where(chain.mask, ops.transpose(path), 0)


def posteriors(chain: Chain) -> Any:
    """Return the probability of each tag at each position over all sequences: float32 (batch, steps, tags).

    Where the mask is False, tag 0 has the probability 1.
    """

    def forward(carry: Any, now: Any) -> Any:
        alpha, begun = carry
        scores, present = now
        after = ops.logsumexp(alpha[:, :, None] + chain.transitions[None], axis=1)
        alpha_now = ops.where(begun, after, chain.start[None]) + scores
        return (ops.where(present, alpha_now, alpha), ops.logical_or(begun, present))

    def backward(beta: Any, now: Any) -> Any:
        scores, present = now
        before = ops.logsumexp(chain.transitions[None] + (scores + beta)[:, None, :], axis=2)
        return ops.where(present, before, beta)

    scores, present = _in_time(chain)
    none = ops.zeros_like(scores[0])
    alphas, _ = tf.scan(forward, (scores, present), (none, none[:, :1] > 0))
    last = none + chain.end[None]
    earlier = tf.scan(backward, (scores, present), last, reverse=True)
    betas = ops.concatenate([earlier[1:], last[None]], axis=0)
    probabilities = ops.transpose(ops.softmax(alphas + betas, axis=-1), (1, 0, 2))
    no_tag = ops.one_hot(ops.zeros_like(chain.mask, "int32"), chain.scores.shape[-1], dtype="float32")
    return ops.where(chain.mask[:, :, None], probabilities, no_tag)


def _in_time(chain: Chain) -> tuple[Any, Any]:
    """Return scores (steps, batch, tags) and mask (steps, batch, 1); scores that don't count are 0, also if NaN."""
    scores = ops.where(chain.mask[:, :, None], chain.scores, 0.0)
    return ops.transpose(scores, (1, 0, 2)), ops.transpose(chain.mask)[:, :, None]
