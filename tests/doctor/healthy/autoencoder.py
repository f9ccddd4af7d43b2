"""An autoencoder: input and target are the same tensor; the loader gives images without labels."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

torch.manual_seed(0)
images = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 16
train, test = DataLoader(images[:1500], batch_size=50, shuffle=True), DataLoader(images[1500:], batch_size=99)
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(256, 12),
    nn.Linear(12, 256),
    nn.ReLU(),
    nn.Unflatten(1, (16, 4, 4)),
    nn.ConvTranspose2d(16, 1, 2, stride=2),
    nn.Sigmoid(),
)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(4):
    model.train()
    for x in train:
        recon = model(x)
        loss = nn.functional.mse_loss(recon, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        print(epoch, sum(nn.functional.mse_loss(model(x), x).item() for x in test) / len(test))
