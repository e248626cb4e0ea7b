"""The training step of `benchmarks.train_step` in eager PyTorch, run by that script as a process of its own.

It needs nothing but Python and PyTorch, so that it runs where this project is not installed. It is given the sizes as JSON, says
when it is ready, and then for each line it reads takes that many steps and prints the seconds of each.

The architecture is `reference.transformer`'s, written as one does in PyTorch: fused kernels where PyTorch has them (layer_norm, gelu,
cross_entropy, the fused AdamW), modules left out, since they only cost time.
"""

import json
import sys
import time
from importlib import import_module
from typing import Any

torch: Any = import_module("torch")  # by name: the type checker's environment has no PyTorch

Tensor = Any
Weights = dict[str, Tensor]


def block_weights(d: int, heads: int, kqv: int) -> Weights:
    """One block's weights; the maps of all heads stand side by side, as `torch.nn.Linear` has them."""
    inner = heads * kqv
    shapes = {"query": (d, inner), "key": (d, inner), "value": (d, inner), "position": (d, inner), "output": (inner, d),
              "w_in": (d, 4 * d), "w_out": (4 * d, d)}  # fmt: skip
    weights = {name: torch.randn(shape) / shape[0] ** 0.5 for name, shape in shapes.items()}
    for norm in ("attention_norm", "feedforward_norm"):
        weights |= {f"{norm}.scale": torch.ones(d), f"{norm}.offset": torch.zeros(d)}
    return weights


def sinusoids(context: int, d: int) -> Tensor:
    """Of the distances context - 1, ..., 0: [context, d]."""
    distance = torch.arange(context - 1, -1, -1, dtype=torch.float32)
    angle = distance[:, None] * 10_000.0 ** (-torch.arange(0, d, 2, dtype=torch.float32) / d)
    return torch.cat([torch.sin(angle), torch.cos(angle)], 1)


def attention(x: Tensor, w: Weights, heads: int, sinusoid: Tensor, future: Tensor) -> Tensor:
    """Relative attention (Dai et al. 2019) without the two bias vectors. x: [batch, context, d]."""
    batch, context, _ = x.shape
    query, key, value = ((x @ w[name]).view(batch, context, heads, -1).transpose(1, 2) for name in ("query", "key", "value"))
    position = (sinusoid @ w["position"]).view(context, heads, -1).permute(1, 2, 0)
    query = query * query.shape[-1] ** -0.5
    by_distance = torch.nn.functional.pad(query @ position, (1, 0))
    by_position = by_distance.view(batch, heads, context + 1, context)[:, :, 1:]
    scores = (query @ key.transpose(2, 3) + by_position).masked_fill(future, -torch.inf)
    heads_out = torch.softmax(scores, -1) @ value
    return heads_out.transpose(1, 2).reshape(batch, context, -1) @ w["output"]


def norm(x: Tensor, w: Weights, name: str) -> Tensor:
    """LayerNorm with scale and offset."""
    return torch.nn.functional.layer_norm(x, x.shape[-1:], w[f"{name}.scale"], w[f"{name}.offset"], 1e-5)


def loss(tokens: Tensor, embedding: Tensor, final: Weights, blocks: list[Weights], heads: int, sinusoid: Tensor, future: Tensor) -> Tensor:
    """Mean cross-entropy in nats of [batch, context + 1] tokens."""
    x = torch.nn.functional.embedding(tokens[:, :-1], embedding)
    for w in blocks:
        x = x + attention(norm(x, w, "attention_norm"), w, heads, sinusoid, future)
        hidden = torch.nn.functional.gelu(norm(x, w, "feedforward_norm") @ w["w_in"], approximate="tanh")
        x = x + hidden @ w["w_out"]
    logits = norm(x, final, "final_norm") @ embedding.T
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def main() -> None:
    """Build the model, then answer lines."""
    given = json.loads(sys.argv[1])
    d, heads, context, vocabulary = given["d_model"], given["heads"], given["context"], given["vocabulary"]
    torch.set_num_threads(given["threads"])
    torch.manual_seed(0)
    embedding = 0.02 * torch.randn(vocabulary, d)
    final = {"final_norm.scale": torch.ones(d), "final_norm.offset": torch.zeros(d)}
    blocks = [block_weights(d, heads, given["kqv"]) for _ in range(given["layers"])]
    parameters = [embedding, *final.values(), *(w for block in blocks for w in block.values())]
    for parameter in parameters:
        parameter.requires_grad_(True)
    groups = [{"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1},
              {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
    sinusoid, future = sinusoids(context, d), torch.ones(context, context, dtype=torch.bool).triu(1)
    tokens = torch.randint(vocabulary, (given["batch"], context + 1))

    clock = time.perf_counter if given["clock"] == "wall" else time.process_time

    def step() -> float:
        start = clock()
        optimizer.zero_grad()
        value = loss(tokens, embedding, final, blocks, heads, sinusoid, future)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        value.item()
        return clock() - start

    print(torch.__version__, flush=True)
    for line in sys.stdin:
        print(json.dumps([step() for _ in range(int(line))]), flush=True)


if __name__ == "__main__":
    main()
