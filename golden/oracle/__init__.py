"""A second implementation of the model, to hold the first one to: NumPy float64, loops over tokens, gradients by hand.

Written from the paper's formulas, never from `reference/`, which it must not share code with. Slow on purpose: one token at a time, no
batching, no scans, no automatic differentiation. Each module has the forward formula and, beside it, its derivative.

    setting.py      what a case is made of
    elementary.py   softmax, sigmoid, GELU, layer norm, and their derivatives
    attention.py    causal attention with relative positions
    routers.py      S-BASE, HASH, RL-R, Switch and loss-free balancing: who goes where, with which gate
    terms.py        what each router adds to the loss, what it reports
    dispatch.py     capacity, order, dropping; the experts, routed and shared
    model.py        the whole Transformer: logits, losses and metrics
    gradient.py     the gradient of the total loss by every weight
    adamw.py        one step of the optimizer

Weights and their gradients are flat dictionaries, `blocks/1/experts/w_in` and the like; `model.weight_shapes` lists them.
"""
