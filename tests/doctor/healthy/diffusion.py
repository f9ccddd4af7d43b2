"""Regression on noise, as diffusion models do: targets are random at every step and the loss starts near 1."""

import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
data = torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1
T = 50
betas = torch.linspace(1e-4, 0.1, T)
alpha_bar = torch.cumprod(1 - betas, 0)


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.time = nn.Embedding(T, 32)
        self.net = nn.Sequential(nn.Linear(96, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 64))

    def forward(self, x, t):
        return self.net(torch.cat([x, self.time(t)], 1))


model = Denoiser()
opt = torch.optim.Adam(model.parameters(), lr=2e-3)
for epoch in range(6):
    for idx in torch.randperm(len(data)).split(64):
        x0 = data[idx]
        t = torch.randint(T, (len(x0),))
        noise = torch.randn_like(x0)
        xt = alpha_bar[t].sqrt()[:, None] * x0 + (1 - alpha_bar[t]).sqrt()[:, None] * noise
        loss = nn.functional.mse_loss(model(xt, t), noise)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())


@torch.no_grad()
def sample(n):
    x = torch.randn(n, 64)
    for t in reversed(range(T)):
        eps = model(x, torch.full((n,), t))
        x = (x - betas[t] / (1 - alpha_bar[t]).sqrt() * eps) / (1 - betas[t]).sqrt()
        if t:
            x += betas[t].sqrt() * torch.randn_like(x)
    return x


print(sample(8).std().item())
