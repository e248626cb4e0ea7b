"""Softmax, sigmoid, GELU and layer norm of one token, each with its derivative. A `d_` name is the loss's gradient by that quantity."""

import math

import numpy as np
from jaxtyping import Float

NORM_EPSILON = 1e-5


def softmax(logits: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """exp(l_j) / sum exp(l), without overflow."""
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def softmax_backward(probabilities: Float[np.ndarray, " n"], d_probabilities: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Gradient by the logits: p_j (d_j - sum_l p_l d_l)."""
    return probabilities * (d_probabilities - probabilities @ d_probabilities)


def log_softmax(logits: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """l_j - log sum exp(l)."""
    return logits - np.logaddexp.reduce(logits)


def sigmoid(z: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """1 / (1 + exp(-z)), without overflow. Its derivative is sigmoid(z) (1 - sigmoid(z))."""
    return np.exp(-np.logaddexp(0, -z))


def gelu(z: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """0.5 z (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3)))."""
    return 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def gelu_slope(z: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Derivative of `gelu`, elementwise."""
    tanh = np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))
    return 0.5 * (1 + tanh) + 0.5 * z * (1 - tanh**2) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z**2)


def layer_norm(
    x: Float[np.ndarray, " d_model"], scale: Float[np.ndarray, " d_model"], offset: Float[np.ndarray, " d_model"]
) -> Float[np.ndarray, " d_model"]:
    """(x - mean) / sqrt(var + 1e-5) * scale + offset, with the biased variance."""
    centred = x - x.sum() / x.size
    return centred / math.sqrt(centred @ centred / x.size + NORM_EPSILON) * scale + offset


def layer_norm_backward(
    x: Float[np.ndarray, " d_model"], scale: Float[np.ndarray, " d_model"], d_y: Float[np.ndarray, " d_model"]
) -> tuple[Float[np.ndarray, " d_model"], Float[np.ndarray, " d_model"], Float[np.ndarray, " d_model"]]:
    """Gradients by the input, the scale and the offset."""
    centred = x - x.sum() / x.size
    deviation = math.sqrt(centred @ centred / x.size + NORM_EPSILON)
    normal = centred / deviation
    d_normal = d_y * scale
    d_x = (d_normal - d_normal.sum() / x.size - normal * (d_normal @ normal) / x.size) / deviation
    return d_x, d_y * normal, d_y
