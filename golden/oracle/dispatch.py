"""Capacity, order and dropping, and the experts themselves: one group of tokens (paper, section 2).

Assignments come in the order of tokens, then of choices, or in one of two other orders; an expert keeps the first C of its own. A dropped
choice adds nothing. Shared experts take every token, without a gate.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from golden.oracle.elementary import gelu, gelu_slope


def kept_choices(
    experts: Int[np.ndarray, "tokens k"],
    num_experts: int,
    capacity: int,
    order: Literal["position", "choice", "gate"] = "position",
    gates: Float[np.ndarray, "tokens k"] | None = None,
) -> Bool[np.ndarray, "tokens k"]:
    """Which choices find room: the first `capacity` of every expert.

    Of all choices, by token and then by choice; or all first choices before all second ones; or those of the largest gates first.
    """
    queue = [(i, c) for i in range(experts.shape[0]) for c in range(experts.shape[1])]
    if order == "choice":
        queue = [(i, c) for c in range(experts.shape[1]) for i in range(experts.shape[0])]
    if order == "gate" and gates is not None:
        queue = sorted(queue, key=lambda at: (-gates[at], at))
    taken = [0] * num_experts
    kept = np.zeros(experts.shape, bool)
    for at in queue:
        kept[at] = taken[experts[at]] < capacity
        taken[experts[at]] += 1
    return kept


def feed_forward(
    h: Float[np.ndarray, " d_model"], w_in: Float[np.ndarray, "d_model hidden"], w_out: Float[np.ndarray, "hidden d_model"]
) -> Float[np.ndarray, " d_model"]:
    """gelu(h w_in) w_out of one token."""
    return gelu(h @ w_in) @ w_out


def feed_forward_backward(
    h: Float[np.ndarray, " d_model"],
    w_in: Float[np.ndarray, "d_model hidden"],
    w_out: Float[np.ndarray, "hidden d_model"],
    d_y: Float[np.ndarray, " d_model"],
) -> tuple[Float[np.ndarray, " d_model"], Float[np.ndarray, "d_model hidden"], Float[np.ndarray, "hidden d_model"]]:
    """Gradients by the input, by w_in and by w_out."""
    z = h @ w_in
    d_z = (w_out @ d_y) * gelu_slope(z)
    return w_in @ d_z, np.outer(h, d_z), np.outer(gelu(z), d_y)


def routed_feed_forward(
    h: Float[np.ndarray, "tokens d_model"],
    experts: Int[np.ndarray, "tokens k"],
    gates: Float[np.ndarray, "tokens k"],
    kept: Bool[np.ndarray, "tokens k"],
    w_in: Float[np.ndarray, "experts d_model hidden"],
    w_out: Float[np.ndarray, "experts hidden d_model"],
) -> Float[np.ndarray, "tokens d_model"]:
    """y_i = sum over the kept choices of gate * expert(h_i)."""
    y = np.zeros_like(h)
    for i in range(len(h)):
        for c, expert in enumerate(experts[i]):
            if kept[i, c]:
                y[i] += gates[i, c] * feed_forward(h[i], w_in[expert], w_out[expert])
    return y


def routed_feed_forward_backward(
    h: Float[np.ndarray, "tokens d_model"],
    experts: Int[np.ndarray, "tokens k"],
    gates: Float[np.ndarray, "tokens k"],
    kept: Bool[np.ndarray, "tokens k"],
    w_in: Float[np.ndarray, "experts d_model hidden"],
    w_out: Float[np.ndarray, "experts hidden d_model"],
    d_y: Float[np.ndarray, "tokens d_model"],
) -> tuple[
    Float[np.ndarray, "tokens d_model"],
    Float[np.ndarray, "tokens k"],
    Float[np.ndarray, "experts d_model hidden"],
    Float[np.ndarray, "experts hidden d_model"],
]:
    """Gradients by the input, by the gates, by w_in and by w_out; a dropped choice has none."""
    d_h, d_gates, d_w_in, d_w_out = np.zeros_like(h), np.zeros_like(gates), np.zeros_like(w_in), np.zeros_like(w_out)
    for i in range(len(h)):
        for c, expert in enumerate(experts[i]):
            if kept[i, c]:
                d_gates[i, c] = feed_forward(h[i], w_in[expert], w_out[expert]) @ d_y[i]
                by_input, by_w_in, by_w_out = feed_forward_backward(h[i], w_in[expert], w_out[expert], gates[i, c] * d_y[i])
                d_h[i] += by_input
                d_w_in[expert] += by_w_in
                d_w_out[expert] += by_w_out
    return d_h, d_gates, d_w_in, d_w_out


def shared_feed_forward(
    h: Float[np.ndarray, " d_model"],
    w_in: Float[np.ndarray, "d_model all_hidden"],
    w_out: Float[np.ndarray, "all_hidden d_model"],
    shared_experts: int,
) -> Float[np.ndarray, " d_model"]:
    """The sum of all shared experts of one token; their hidden units lie side by side in the two matrices."""
    units = np.split(np.arange(w_in.shape[1]), shared_experts)
    return sum((feed_forward(h, w_in[:, own], w_out[own]) for own in units), start=np.zeros_like(h))


def shared_feed_forward_backward(
    h: Float[np.ndarray, " d_model"],
    w_in: Float[np.ndarray, "d_model all_hidden"],
    w_out: Float[np.ndarray, "all_hidden d_model"],
    shared_experts: int,
    d_y: Float[np.ndarray, " d_model"],
) -> tuple[Float[np.ndarray, " d_model"], Float[np.ndarray, "d_model all_hidden"], Float[np.ndarray, "all_hidden d_model"]]:
    """Gradients by the input, by w_in and by w_out."""
    d_h, d_w_in, d_w_out = np.zeros_like(h), np.zeros_like(w_in), np.zeros_like(w_out)
    for own in np.split(np.arange(w_in.shape[1]), shared_experts):
        by_input, d_w_in[:, own], d_w_out[own] = feed_forward_backward(h, w_in[:, own], w_out[own], d_y)
        d_h += by_input
    return d_h, d_w_in, d_w_out
