"""vmap over grad: gradients of every sample are clipped one by one and noise is added, as in private training."""

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.func import functional_call, grad, vmap

torch.manual_seed(0)
X, y = load_breast_cancer(return_X_y=True)
X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
y = torch.tensor(y)
model = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.2)


def sample_loss(params, x, t):
    return nn.functional.cross_entropy(functional_call(model, params, (x.unsqueeze(0),)), t.unsqueeze(0))


per_sample = vmap(grad(sample_loss), in_dims=(None, 0, 0))
for epoch in range(4):
    for idx in torch.randperm(500).split(50):
        params = {k: p.detach() for k, p in model.named_parameters()}
        grads = per_sample(params, X[idx], y[idx])
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in grads.values()]).norm(dim=0)
        scale = (1.0 / norms).clamp(max=1.0)
        for name, p in model.named_parameters():
            clipped = (grads[name] * scale.view(-1, *[1] * (p.dim()))).mean(0)
            p.grad = clipped + 0.001 * torch.randn_like(p)
        optimizer.step()
    with torch.no_grad():
        print(epoch, (model(X[500:]).argmax(1) == y[500:]).float().mean().item())
