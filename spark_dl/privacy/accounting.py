"""The privacy loss of DP-SGD: Rényi differential privacy of the sampled Gaussian mechanism.

Sources: Mironov, Talwar and Zhang: Rényi Differential Privacy of the Sampled Gaussian Mechanism, 2019 (equation 30, for
integer orders); Canonne, Kamath and Steinke: The Discrete Gaussian for Differential Privacy, NeurIPS 2020 (proposition
12, from Rényi to epsilon and delta).
"""

from __future__ import annotations

import math

import numpy as np

from spark_dl.errors import OptionError, explain

__all__ = ["epsilon", "noise_for"]

_ORDERS = range(2, 513)
_LOG_FACTORIALS = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, _ORDERS.stop)))])
# A search for noise ends here: with such noise, weights carry no information.
_MOST_NOISE = 1e4


def epsilon(noiseMultiplier: float, chance: float, steps: int, delta: float) -> float:
    """Return the epsilon of the (epsilon, delta)-differential privacy of some steps of DP-SGD.

    Neighbouring sets of rows differ by one row that is in one of them only.

    Args:
        noiseMultiplier: The standard deviation of the noise, divided by the norm to which gradients are clipped.
        chance: The sampling rate: the probability with which a step samples a row.
        steps: The number of steps.
        delta: The delta, which should be less than 1 / rows.

    Returns:
        The epsilon; infinite without noise.
    """
    if noiseMultiplier <= 0:
        return math.inf
    best = math.inf
    for order in _ORDERS:
        divergence = steps * _divergence(noiseMultiplier, chance, order)
        found = divergence + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
        best = min(best, found)
    return max(0.0, best)


def _divergence(noise: float, chance: float, order: int) -> float:
    """Return the Rényi divergence of one step, of an integer order."""
    if chance == 0:
        return 0.0
    if chance == 1:
        return order / (2 * noise**2)
    k = np.arange(order + 1)
    binomials = _LOG_FACTORIALS[order] - _LOG_FACTORIALS[k] - _LOG_FACTORIALS[order - k]
    terms = binomials + k * math.log(chance) + (order - k) * math.log1p(-chance) + (k * k - k) / (2 * noise**2)
    largest = terms.max()
    return float(largest + np.log(np.exp(terms - largest).sum())) / (order - 1)


def noise_for(targetEpsilon: float, chance: float, steps: int, delta: float) -> float:
    """Return the least noise multiplier whose epsilon is at most a target, to 4 digits.

    Args:
        targetEpsilon: The greatest epsilon.
        chance: See `epsilon`.
        steps: See `epsilon`.
        delta: See `epsilon`.

    Raises:
        OptionError: No noise reaches it.
    """
    low, high = 0.0, 1.0
    while epsilon(high, chance, steps, delta) > targetEpsilon:
        low, high = high, 2 * high
        if high > _MOST_NOISE:
            raise OptionError(
                explain(
                    f"An epsilon of {targetEpsilon:g} can't be reached.",
                    expected=f"at least {epsilon(high, chance, steps, delta):.2g}, for delta={delta:g}",
                    received=f"targetEpsilon={targetEpsilon:g} with {steps} steps",
                    fix="Set a larger targetEpsilon or delta, or fewer epochs.",
                )
            )
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if epsilon(middle, chance, steps, delta) <= targetEpsilon else (middle, high)
    return high
