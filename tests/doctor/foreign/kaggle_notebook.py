"""Cells of a competition notebook; the rare class is oversampled before the split, so rows stand on both sides."""

# %%
import numpy as np
import pandas as pd
import torch
import torch.nn as nn
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

EXPECTED = "train-valid-leak"

SEED = 2023
np.random.seed(SEED)
torch.manual_seed(SEED)

# %%
df = load_breast_cancer(as_frame=True).frame
print(df.shape)
print(df.target.value_counts())

# %% balance the classes
minority = df[df.target == 0]
extra = minority.sample(len(df[df.target == 1]) - len(minority), replace=True, random_state=SEED)
df = pd.concat([df, extra]).reset_index(drop=True)

# %%
features = [c for c in df.columns if c != "target"]
X_train, X_val, y_train, y_val = train_test_split(
    df[features].values, df.target.values, test_size=0.25, random_state=SEED, stratify=df.target
)
sc = StandardScaler()
X_train = sc.fit_transform(X_train)
X_val = sc.transform(X_val)

# %%
BATCH_SIZE = 32
EPOCHS = 8
LR = 1e-3
train_ds = TensorDataset(torch.FloatTensor(X_train), torch.FloatTensor(y_train))
val_ds = TensorDataset(torch.FloatTensor(X_val), torch.FloatTensor(y_val))
train_dl = DataLoader(train_ds, batch_size=BATCH_SIZE, shuffle=True)
val_dl = DataLoader(val_ds, batch_size=BATCH_SIZE * 4, shuffle=False)


# %%
class TabularModel(nn.Module):
    def __init__(self, n_in):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(n_in, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)
        )

    def forward(self, x):
        return self.net(x).squeeze(-1)


model = TabularModel(len(features))
optimizer = torch.optim.Adam(model.parameters(), lr=LR)
criterion = nn.BCEWithLogitsLoss()

# %%
best = 0.0
for epoch in range(EPOCHS):
    model.train()
    tr_loss = 0.0
    for xb, yb in train_dl:
        optimizer.zero_grad()
        loss = criterion(model(xb), yb)
        loss.backward()
        optimizer.step()
        tr_loss += loss.item() * len(xb)
    model.eval()
    preds = []
    with torch.no_grad():
        for xb, yb in val_dl:
            preds.append(torch.sigmoid(model(xb)).numpy())
    acc = ((np.concatenate(preds) > 0.5) == y_val).mean()
    best = max(best, acc)
    print(f"Epoch {epoch + 1}/{EPOCHS} | loss {tr_loss / len(train_ds):.4f} | val acc {acc:.4f}")
print("best", best)
