"""MAML on sine waves: inner steps with create_graph=True on cloned parameters, the outer loss goes through them."""

import math

import torch
from torch import nn
from torch.func import functional_call

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
meta_opt = torch.optim.Adam(net.parameters(), lr=1e-3)


def sine_task():
    amplitude, phase = 0.5 + 2 * torch.rand(1), math.pi * torch.rand(1)

    def sample(n):
        x = 6 * torch.rand(n, 1) - 3
        return x, amplitude * torch.sin(x + phase)

    return sample


for it in range(60):
    meta_loss = 0.0
    for _ in range(4):
        task = sine_task()
        fast = dict(net.named_parameters())
        xs, ys = task(10)
        for _ in range(1):
            inner = nn.functional.mse_loss(functional_call(net, fast, xs), ys)
            grads = torch.autograd.grad(inner, list(fast.values()), create_graph=True)
            fast = {k: w - 0.01 * g for (k, w), g in zip(fast.items(), grads, strict=True)}
        xq, yq = task(10)
        meta_loss = meta_loss + nn.functional.mse_loss(functional_call(net, fast, xq), yq)
    meta_loss = meta_loss / 4
    meta_opt.zero_grad()
    meta_loss.backward()
    meta_opt.step()
    if it % 20 == 0:
        print(it, meta_loss.item())
