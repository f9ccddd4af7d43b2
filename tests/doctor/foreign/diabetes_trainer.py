"""A trainer class for regression; a helper that readies the step sets the gradients to zero after backward."""

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

EXPECTED = "zero-grad-before-step"


class Trainer:
    def __init__(self, model, train_set, val_set, lr=1e-2):
        self.model = model
        self.opt = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        self.loss_fn = nn.MSELoss()
        self.train_dl = DataLoader(train_set, 32, shuffle=True)
        self.val_dl = DataLoader(val_set, 128)

    def _prepare_step(self):
        for p in self.model.parameters():
            if p.grad is not None:
                p.grad.zero_()

    def training_step(self, batch):
        x, y = batch
        loss = self.loss_fn(self.model(x).squeeze(-1), y)
        loss.backward()
        self._prepare_step()
        self.opt.step()
        return loss.item()

    def evaluate(self):
        self.model.eval()
        with torch.inference_mode():
            res = [self.loss_fn(self.model(x).squeeze(-1), y).item() for x, y in self.val_dl]
        return float(np.mean(res))

    def fit(self, epochs):
        for epoch in range(epochs):
            self.model.train()
            res = [self.training_step(b) for b in self.train_dl]
            print(epoch, np.mean(res), self.evaluate())


if __name__ == "__main__":
    torch.manual_seed(42)
    np.random.seed(42)
    X, y = load_diabetes(return_X_y=True, scaled=False)
    X = (X - X.mean(0)) / X.std(0)
    y = (y - y.mean()) / y.std()
    ds = TensorDataset(torch.tensor(X, dtype=torch.float32), torch.tensor(y, dtype=torch.float32))
    tr, va = random_split(ds, [342, 100])
    net = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 1))
    Trainer(net, tr, va).fit(12)
