"""Two optimizers; pictures are drawn from a generator in train mode under no_grad, on purpose."""

import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
real_images = torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1
G = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.Tanh())
D = nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Dropout(0.2), nn.Linear(64, 1))
opt_g = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.999))
opt_d = torch.optim.Adam(D.parameters(), lr=1e-3, betas=(0.5, 0.999))
bce = nn.BCEWithLogitsLoss()
fixed = torch.randn(16, 16)
samples = []
for epoch in range(4):
    for idx in torch.randperm(len(real_images)).split(64):
        real = real_images[idx]
        n = len(real)
        fake = G(torch.randn(n, 16))
        loss_d = bce(D(real), torch.ones(n, 1)) + bce(D(fake.detach()), torch.zeros(n, 1))
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
        loss_g = bce(D(fake), torch.ones(n, 1))
        opt_g.zero_grad()
        loss_g.backward()
        opt_g.step()
    with torch.no_grad():
        samples.append(G(fixed).view(16, 8, 8))
    print(epoch, loss_d.item(), loss_g.item())
