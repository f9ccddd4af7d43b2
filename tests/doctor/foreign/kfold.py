"""Cross validation with a model for each fold; the scaler is applied to the training rows only."""

import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_wine
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

EXPECTED = "train-valid-preprocessing-differs"

K = 5
EPOCHS = 8


def seed_everything(seed):
    np.random.seed(seed)
    torch.manual_seed(seed)


def build_model(n_features, n_classes):
    return nn.Sequential(nn.Linear(n_features, 32), nn.ReLU(), nn.Linear(32, n_classes))


def train_epoch(model, loader, criterion, optimizer):
    model.train()
    total = 0.0
    for xb, yb in loader:
        optimizer.zero_grad()
        loss = criterion(model(xb), yb)
        loss.backward()
        optimizer.step()
        total += loss.item() * xb.size(0)
    return total / len(loader.dataset)


@torch.no_grad()
def valid_epoch(model, loader, criterion):
    model.eval()
    loss, correct = 0.0, 0
    for xb, yb in loader:
        out = model(xb)
        loss += criterion(out, yb).item() * xb.size(0)
        correct += (out.argmax(1) == yb).sum().item()
    return loss / len(loader.dataset), correct / len(loader.dataset)


def main():
    seed_everything(0)
    X, y = load_wine(return_X_y=True)
    scores = []
    splits = StratifiedKFold(n_splits=K, shuffle=True, random_state=0)
    for fold, (train_idx, valid_idx) in enumerate(splits.split(X, y)):
        scaler = StandardScaler()
        X_train = scaler.fit_transform(X[train_idx])
        X_valid = X[valid_idx]
        train_ds = TensorDataset(torch.tensor(X_train, dtype=torch.float32), torch.tensor(y[train_idx]))
        valid_ds = TensorDataset(torch.tensor(X_valid, dtype=torch.float32), torch.tensor(y[valid_idx]))
        train_loader = DataLoader(train_ds, batch_size=16, shuffle=True)
        valid_loader = DataLoader(valid_ds, batch_size=64)
        model = build_model(X.shape[1], 3)
        criterion = nn.CrossEntropyLoss()
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(EPOCHS):
            train_loss = train_epoch(model, train_loader, criterion, optimizer)
            val_loss, val_acc = valid_epoch(model, valid_loader, criterion)
        print(f"fold {fold}: train {train_loss:.4f} valid {val_loss:.4f} acc {val_acc:.3f}")
        scores.append(val_acc)
    print("cv:", np.mean(scores))


if __name__ == "__main__":
    main()
