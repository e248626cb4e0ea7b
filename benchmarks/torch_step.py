"""A training step in PyTorch, eager or compiled, on CPU or GPU. `benchmarks.torch_peer` runs this script as a process of its own.

It needs nothing but Python and PyTorch, so that it runs where this project is not installed. It is given the model as JSON, says
when it is ready, and then for each line it reads takes that many steps and prints the seconds of each.

The architecture is `reference.transformer`'s, written as one does in PyTorch: fused kernels where PyTorch has them (layer_norm, gelu,
cross_entropy, the fused AdamW), modules left out, since they only cost time. Every second block of a routed model is routed by Switch, and
no token is dropped: in a loop over the experts, or by grouped_mm on tokens sorted by expert.
"""

import json
import sys
import time
from functools import partial
from importlib import import_module
from typing import Any

torch: Any = import_module("torch")  # by name: the type checker's environment has no PyTorch

Tensor = Any
Weights = dict[str, Tensor]
Given = dict[str, Any]

BALANCE, Z = 1e-2, 1e-3
"""Weights of Switch's balancing loss and z-loss (`reference.routers.switch`)."""


def block_weights(given: Given, routed: bool) -> Weights:
    """One block's weights; the maps of all heads stand side by side, as `torch.nn.Linear` has them."""
    d, inner = given["d_model"], given["heads"] * given["kqv"]
    shapes = {"query": (d, inner), "key": (d, inner), "value": (d, inner), "position": (d, inner), "output": (inner, d)}
    experts = (given["experts"],) if routed else ()
    shapes |= {"w_in": (*experts, d, 4 * d), "w_out": (*experts, 4 * d, d)}
    if routed:
        shapes["router"] = (d, given["experts"])
    weights = {name: torch.randn(shape) / shape[-2] ** 0.5 for name, shape in shapes.items()}
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
    heads_out = torch.softmax(scores.float(), -1).to(x.dtype) @ value
    return heads_out.transpose(1, 2).reshape(batch, context, -1) @ w["output"]


def norm(x: Tensor, w: Weights, name: str) -> Tensor:
    """LayerNorm with scale and offset."""
    return torch.nn.functional.layer_norm(x, x.shape[-1:], w[f"{name}.scale"], w[f"{name}.offset"], 1e-5)


gelu = partial(torch.nn.functional.gelu, approximate="tanh")


def by_loop(x: Tensor, choice: Tensor, w: Weights) -> Tensor:
    """Each expert's tokens are looked up, computed and added in turn. x: [tokens, d]."""
    result = torch.zeros_like(x)
    for expert in range(w["w_in"].shape[0]):
        index = torch.where(choice == expert)[0]
        result.index_add_(0, index, gelu(x[index] @ w["w_in"][expert]) @ w["w_out"][expert])
    return result


def by_groups(x: Tensor, choice: Tensor, w: Weights) -> Tensor:
    """Tokens in the order of their experts, of all of which grouped_mm computes the products. x: [tokens, d]."""
    order = torch.argsort(choice, stable=True)
    ends = torch.nn.functional.one_hot(choice, w["w_in"].shape[0]).sum(0).cumsum(0).to(torch.int32)
    grouped_mm = torch.nn.functional.grouped_mm
    y = grouped_mm(gelu(grouped_mm(x[order], w["w_in"], offs=ends)), w["w_out"], offs=ends)
    return torch.zeros_like(x).index_copy(0, order, y)


EXPERTS = {"loop": by_loop, "grouped": by_groups}


def feedforward(x: Tensor, w: Weights, form: str) -> tuple[Tensor, Tensor | float]:
    """The block's second half, and its router's losses."""
    if "router" not in w:
        return gelu(x @ w["w_in"]) @ w["w_out"], 0.0
    flat = x.flatten(0, 1)
    logits = flat.float() @ w["router"].float()
    p = torch.softmax(logits, -1)
    gate, choice = p.max(-1)
    load = torch.nn.functional.one_hot(choice, p.shape[-1]).float().mean(0)
    balance = p.shape[-1] * (load * p.mean(0)).sum()
    z = (torch.logsumexp(logits, -1) ** 2).mean()
    y = gate[:, None].to(x.dtype) * EXPERTS[form](flat, choice, w)
    return y.view_as(x), BALANCE * balance + Z * z


def loss(
    tokens: Tensor, embedding: Tensor, final: Weights, blocks: list[Weights], given: Given, sinusoid: Tensor, future: Tensor
) -> Tensor:
    """Mean cross-entropy in nats of [batch, context + 1] tokens, and the routers' losses."""
    dtype = getattr(torch, given["dtype"])
    embedding, sinusoid = embedding.to(dtype), sinusoid.to(dtype)
    final, *blocks = ({name: x.to(dtype) for name, x in w.items()} for w in (final, *blocks))
    x, more = torch.nn.functional.embedding(tokens[:, :-1], embedding), 0.0
    for w in blocks:
        x = x + attention(norm(x, w, "attention_norm"), w, given["heads"], sinusoid, future)
        y, losses = feedforward(norm(x, w, "feedforward_norm"), w, given["form"])
        x, more = x + y, more + losses
    logits = norm(x, final, "final_norm") @ embedding.T
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten()) + more


def main() -> None:
    """Build the model, then answer lines."""
    given: Given = json.loads(sys.argv[1])
    d, context, device = given["d_model"], given["context"], given["device"]
    torch.set_num_threads(given["threads"])
    torch.manual_seed(0)
    embedding = 0.02 * torch.randn(given["vocabulary"], d)
    final = {"final_norm.scale": torch.ones(d), "final_norm.offset": torch.zeros(d)}
    blocks = [block_weights(given, given["experts"] > 1 and i % 2 == 1) for i in range(given["layers"])]
    embedding = embedding.to(device)
    final, *blocks = ({name: x.to(device) for name, x in w.items()} for w in (final, *blocks))
    parameters = [embedding, *final.values(), *(w for block in blocks for w in block.values())]
    for parameter in parameters:
        parameter.requires_grad_(True)
    groups = [{"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1},
              {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
    sinusoid, future = sinusoids(context, d).to(device), torch.ones(context, context, dtype=torch.bool, device=device).triu(1)
    tokens = torch.randint(given["vocabulary"], (given["batch"], context + 1)).to(device)
    of = torch.compile(loss) if given["compile"] else loss

    clock = time.perf_counter if given["clock"] == "wall" else time.process_time

    def step() -> float:
        start = clock()
        optimizer.zero_grad()
        value = of(tokens, embedding, final, blocks, given, sinusoid, future)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        value.item()  # waits for what is queued on a GPU
        return clock() - start

    print(torch.__version__, flush=True)
    for line in sys.stdin:
        print(json.dumps([step() for _ in range(int(line))]), flush=True)


if __name__ == "__main__":
    main()
