"""Per-pixel labels of shape (N, H, W) against outputs (N, C, H, W); background is most of the picture."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
images = torch.tensor(load_digits().images, dtype=torch.float32)
masks = torch.bucketize(images, torch.tensor([4.0, 12.0])).long()
noisy = (images / 8 - 1 + 0.3 * torch.randn_like(images)).unsqueeze(1)
train = DataLoader(TensorDataset(noisy[:1500], masks[:1500]), batch_size=32, shuffle=True)
valid = DataLoader(TensorDataset(noisy[1500:], masks[1500:]), batch_size=100)


class TinyUNet(nn.Module):
    def __init__(self, c=16):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU())
        self.mid = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(c, 2 * c, 3, padding=1), nn.BatchNorm2d(2 * c), nn.ReLU())
        self.up = nn.ConvTranspose2d(2 * c, c, 2, stride=2)
        self.out = nn.Conv2d(2 * c, 3, 1)

    def forward(self, x):
        d = self.down(x)
        return self.out(torch.cat([d, self.up(self.mid(d))], 1))


net = TinyUNet()
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(2):
    net.train()
    for x, m in train:
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(x), m)
        loss.backward()
        opt.step()
    net.eval()
    with torch.no_grad():
        acc = sum((net(x).argmax(1) == m).float().mean().item() for x, m in valid) / len(valid)
    print(epoch, loss.item(), acc)
