"""torch.func: the module is a template, the parameters a dictionary that is replaced at every step."""

import torch
from sklearn.datasets import load_wine
from torch import nn
from torch.func import functional_call, grad_and_value

torch.manual_seed(0)
X, y = load_wine(return_X_y=True)
X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
y = torch.tensor(y)
model = nn.Sequential(nn.Linear(13, 24), nn.Tanh(), nn.Linear(24, 3))
params = {k: v.detach().clone() for k, v in model.named_parameters()}


def loss_fn(params, xb, yb):
    return nn.functional.cross_entropy(functional_call(model, params, (xb,)), yb)


step = grad_and_value(loss_fn)
for epoch in range(10):
    for idx in torch.randperm(len(X)).split(16):
        grads, loss = step(params, X[idx], y[idx])
        params = {k: p - 0.1 * grads[k] for k, p in params.items()}
    print(epoch, loss.item())
