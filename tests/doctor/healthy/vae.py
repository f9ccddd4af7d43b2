"""A VAE with the loss of the official example: summed over the batch, so hundreds to thousands at the start."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

torch.manual_seed(1)
images = torch.tensor(load_digits().data, dtype=torch.float32) / 16


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 48)
        self.fc21 = nn.Linear(48, 6)
        self.fc22 = nn.Linear(48, 6)
        self.fc3 = nn.Linear(6, 48)
        self.fc4 = nn.Linear(48, 64)

    def forward(self, x):
        h = F.relu(self.fc1(x))
        mu, logvar = self.fc21(h), self.fc22(h)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mu, logvar


def loss_function(recon_x, x, mu, logvar):
    BCE = F.binary_cross_entropy(recon_x, x, reduction="sum")
    KLD = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return BCE + KLD


model = VAE()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
train_loader = DataLoader(images[:1500], batch_size=64, shuffle=True)
test_loader = DataLoader(images[1500:], batch_size=64)
for epoch in range(1, 5):
    model.train()
    train_loss = 0
    for data in train_loader:
        optimizer.zero_grad()
        loss = loss_function(*[(r := model(data))[0], data, r[1], r[2]])
        loss.backward()
        train_loss += loss.item()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        test_loss = sum(loss_function(r[0], d, r[1], r[2]).item() for d in test_loader for r in [model(d)])
        sample = torch.sigmoid(model.fc4(F.relu(model.fc3(torch.randn(8, 6)))))
    print(epoch, train_loss / 1500, test_loss / 297, sample.mean().item())
