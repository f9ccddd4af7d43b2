"""A regressor with fit and predict; outputs of shape (N, 1) meet targets of shape (N,)."""

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.datasets import load_diabetes
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

EXPECTED = "loss-broadcasts"


class TorchMLPRegressor(BaseEstimator, RegressorMixin):
    def __init__(self, hidden=32, lr=0.01, epochs=20, batch_size=32, random_state=0):
        self.hidden = hidden
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.random_state = random_state

    def fit(self, X, y):
        torch.manual_seed(self.random_state)
        X = torch.as_tensor(np.asarray(X), dtype=torch.float32)
        y = torch.as_tensor(np.asarray(y), dtype=torch.float32)
        self.y_mean_, self.y_std_ = y.mean(), y.std()
        y = (y - self.y_mean_) / self.y_std_
        self.net_ = torch.nn.Sequential(
            torch.nn.Linear(X.shape[1], self.hidden), torch.nn.ReLU(), torch.nn.Linear(self.hidden, 1)
        )
        opt = torch.optim.Adam(self.net_.parameters(), lr=self.lr)
        self.history_ = []
        for _ in range(self.epochs):
            order = torch.randperm(len(X))
            for idx in order.split(self.batch_size):
                opt.zero_grad()
                loss = ((self.net_(X[idx]) - y[idx]) ** 2).mean()
                loss.backward()
                opt.step()
            self.history_.append(loss.item())
        return self

    def predict(self, X):
        self.net_.eval()
        with torch.no_grad():
            out = self.net_(torch.as_tensor(np.asarray(X), dtype=torch.float32))
        return (out.squeeze(1) * self.y_std_ + self.y_mean_).numpy()


if __name__ == "__main__":
    X, y = load_diabetes(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    pipe = make_pipeline(StandardScaler(), TorchMLPRegressor())
    pipe.fit(X_train, y_train)
    print("R2:", r2_score(y_test, pipe.predict(X_test)))
