"""AdamW (Loshchilov and Hutter 2019) behind a clip by the global norm: one step over flat dictionaries of weights.

Our choice of constants, as the paper gives none: betas 0.9 and 0.95, epsilon 1e-8, decay 0.1, norm 1.0. The decay is decoupled and falls
on weights of rank 2 and more, each counted as one layer has it: neither the norms nor `baseline_out` decay.
"""

import math
from dataclasses import dataclass

import numpy as np

from golden.oracle.setting import Arrays

BETA_1, BETA_2, EPSILON, DECAY, MAX_NORM = 0.9, 0.95, 1e-8, 0.1, 1.0


@dataclass(frozen=True)
class AdamWState:
    """Running means of the gradient and of its square, after `steps` steps."""

    mean: Arrays
    mean_square: Arrays
    steps: int = 0


def start(weights: Arrays) -> AdamWState:
    """Means of zero."""
    return AdamWState({n: np.zeros_like(w) for n, w in weights.items()}, {n: np.zeros_like(w) for n, w in weights.items()})


def global_norm(gradients: Arrays) -> float:
    """Euclidean norm of all the gradients' entries together."""
    return math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))


def adamw_step(weights: Arrays, gradients: Arrays, state: AdamWState, learning_rate: float) -> tuple[Arrays, AdamWState]:
    """w - rate * (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay w), with gradients scaled to a global norm of at most 1."""
    shrink = min(1.0, MAX_NORM / global_norm(gradients))
    t = state.steps + 1
    new, mean, mean_square = dict[str, np.ndarray](), dict[str, np.ndarray](), dict[str, np.ndarray]()
    for name, weight in weights.items():
        gradient = shrink * gradients[name]
        mean[name] = BETA_1 * state.mean[name] + (1 - BETA_1) * gradient
        mean_square[name] = BETA_2 * state.mean_square[name] + (1 - BETA_2) * gradient**2
        direction = mean[name] / (1 - BETA_1**t) / (np.sqrt(mean_square[name] / (1 - BETA_2**t)) + EPSILON)
        decay = DECAY * weight if weight.ndim >= 2 else np.zeros_like(weight)
        new[name] = weight - learning_rate * (direction + decay)
    return new, AdamWState(mean, mean_square, t)
