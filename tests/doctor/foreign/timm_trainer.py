"""A trainer class with EMA and a cosine schedule, as in image model zoos; after the first validation the model
stays in eval mode."""

import copy
import logging

import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, Dataset

EXPECTED = "train-in-eval-mode"

_logger = logging.getLogger("train")


class AverageMeter:
    def __init__(self):
        self.sum, self.count, self.avg = 0.0, 0, 0.0

    def update(self, val, n=1):
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count


class ModelEma(nn.Module):
    def __init__(self, model, decay=0.95):
        super().__init__()
        self.module = copy.deepcopy(model)
        self.module.eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model):
        for ema_v, model_v in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
            if ema_v.dtype.is_floating_point:
                ema_v.lerp_(model_v, 1 - self.decay)
            else:
                ema_v.copy_(model_v)


class DigitsDataset(Dataset):
    def __init__(self, images, targets, train):
        self.images, self.targets, self.train = images, targets, train

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image = self.images[i]
        if self.train:
            image = np.roll(image, np.random.randint(-1, 2), axis=1)
        return torch.from_numpy(image[None].astype(np.float32) / 8 - 1), int(self.targets[i])


def conv_bn(cin, cout, stride=1):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU(inplace=True))


class Trainer:
    def __init__(self, model, loaders, epochs, lr):
        self.model = model
        self.ema = ModelEma(model)
        self.train_loader, self.val_loader = loaders
        self.epochs = epochs
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
        self.val_criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=epochs)

    def train_one_epoch(self, epoch):
        losses = AverageMeter()
        for images, target in self.train_loader:
            loss = self.criterion(self.model(images), target)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.ema.update(self.model)
            losses.update(loss.item(), images.size(0))
        return losses.avg

    @torch.no_grad()
    def validate(self, model):
        model.eval()
        losses, top1 = AverageMeter(), AverageMeter()
        for images, target in self.val_loader:
            output = model(images)
            losses.update(self.val_criterion(output, target).item(), len(target))
            top1.update((output.argmax(1) == target).float().mean().item() * 100, len(target))
        return losses.avg, top1.avg

    def fit(self):
        self.model.train()
        for epoch in range(self.epochs):
            loss = self.train_one_epoch(epoch)
            val_loss, top1 = self.validate(self.model)
            _, ema_top1 = self.validate(self.ema.module)
            self.scheduler.step()
            print(f"epoch {epoch}: loss {loss:.3f} val {val_loss:.3f} acc {top1:.2f} ema {ema_top1:.2f}")


if __name__ == "__main__":
    torch.manual_seed(42)
    np.random.seed(42)
    X, y = load_digits(return_X_y=True)
    X = X.reshape(-1, 8, 8)
    Xt, Xv, yt, yv = train_test_split(X, y, test_size=0.2, random_state=42, stratify=y)
    loaders = (
        DataLoader(DigitsDataset(Xt, yt, True), batch_size=64, shuffle=True, drop_last=True),
        DataLoader(DigitsDataset(Xv, yv, False), batch_size=128),
    )
    net = nn.Sequential(
        conv_bn(1, 16),
        conv_bn(16, 32, 2),
        nn.Dropout(0.1),
        conv_bn(32, 32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    Trainer(net, loaders, epochs=4, lr=3e-3).fit()
