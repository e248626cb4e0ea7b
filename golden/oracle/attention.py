"""Causal attention with relative positions (Dai et al. 2019, without its two bias vectors), one sequence and one head at a time.

score_ij = q_i . (key_j + r_{i-j}) / sqrt(K) for j <= i, with r_m the sinusoid of distance m, projected.
"""

import math

import numpy as np
from jaxtyping import Float

from golden.oracle.elementary import softmax, softmax_backward
from golden.oracle.setting import Arrays

PROJECTIONS = ("query", "key", "value", "position")


def sinusoid(distance: int, d_model: int) -> Float[np.ndarray, " {d_model}"]:
    """Sines of distance * 10000^(-2c/D) for c = 0 ... D/2 - 1, then the cosines."""
    half = range(d_model // 2)
    angles = [distance * 10000.0 ** (-2 * c / d_model) for c in half]
    return np.array([math.sin(a) for a in angles] + [math.cos(a) for a in angles])


def attention(h: Float[np.ndarray, "context d_model"], weights: Arrays) -> Float[np.ndarray, "context d_model"]:
    """Output of all heads at every position. `weights`: query, key, value, position [D, H, K] and output [H, K, D]."""
    context, d_model = h.shape
    heads, kqv_size = weights["output"].shape[:2]
    y = np.zeros_like(h)
    for head in range(heads):
        wq, wk, wv, wr = (weights[name][:, head] for name in PROJECTIONS)
        keys, values = [token @ wk for token in h], [token @ wv for token in h]
        distances = [sinusoid(m, d_model) @ wr for m in range(context)]
        for i in range(context):
            query = h[i] @ wq
            p = softmax(np.array([query @ (keys[j] + distances[i - j]) for j in range(i + 1)]) / math.sqrt(kqv_size))
            mixed = np.zeros(kqv_size)
            for j in range(i + 1):
                mixed += p[j] * values[j]
            y[i] += mixed @ weights["output"][head]
    return y


def attention_backward(
    h: Float[np.ndarray, "context d_model"], weights: Arrays, d_y: Float[np.ndarray, "context d_model"]
) -> tuple[Float[np.ndarray, "context d_model"], Arrays]:
    """Gradients by the input and by each weight."""
    context, d_model = h.shape
    heads, kqv_size = weights["output"].shape[:2]
    d_h = np.zeros_like(h)
    gradients = {name: np.zeros_like(weights[name]) for name in (*PROJECTIONS, "output")}
    for head in range(heads):
        wq, wk, wv, wr = (weights[name][:, head] for name in PROJECTIONS)
        gq, gk, gv, gr = (gradients[name][:, head] for name in PROJECTIONS)
        wo = weights["output"][head]
        places = [sinusoid(m, d_model) for m in range(context)]
        for i in range(context):
            query = h[i] @ wq
            seen = range(i + 1)
            keys = [h[j] @ wk + places[i - j] @ wr for j in seen]
            values = [h[j] @ wv for j in seen]
            p = softmax(np.array([query @ key for key in keys]) / math.sqrt(kqv_size))
            gradients["output"][head] += np.outer(sum(p[j] * values[j] for j in seen), d_y[i])
            d_mixed = wo @ d_y[i]
            d_scores = softmax_backward(p, np.array([value @ d_mixed for value in values])) / math.sqrt(kqv_size)
            d_query = np.zeros(kqv_size)
            for j in seen:
                d_query += d_scores[j] * keys[j]
                d_key = d_scores[j] * query
                d_value = p[j] * d_mixed
                gk += np.outer(h[j], d_key)
                gr += np.outer(places[i - j], d_key)
                gv += np.outer(h[j], d_value)
                d_h[j] += wk @ d_key + wv @ d_value
            gq += np.outer(h[i], d_query)
            d_h[i] += wq @ d_query
    return d_h, gradients
