"""All loader workers draw the same "random" augmentation.

The mistake: the dataset makes its own NumPy generator in ``__init__``; each worker gets a copy in the same state, and
in each epoch again. (PyTorch seeds NumPy's global generator in each worker, but knows nothing of this one.)
No exception: copies of a generator are legal.
Harm: half the variety with two workers, and the same again in each epoch; the score shows it late.
Cure: make the generator in the worker, from the seed that PyTorch gives it.
"""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "workers-share-seed"
ARCHS = ALL


class Augmented(Dataset):
    """Images moved by up to one pixel, with a little noise."""

    def __init__(self, images, labels, seed, mended):
        self.images, self.labels = images, labels
        self.mended = mended
        self.rng = np.random.default_rng(seed)  # a copy of it goes to each worker
        self.own_rng = None

    def random(self):
        if self.mended:
            if self.own_rng is None:
                info = get_worker_info()
                self.own_rng = np.random.default_rng(info.seed if info else torch.initial_seed())
            return self.own_rng  # the cure: another one in each worker and epoch
        else:
            return self.rng  # the mistake

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        rng = self.random()
        down, right = rng.integers(-1, 2, size=2)
        image = torch.roll(self.images[index], (int(down), int(right)), dims=(1, 2))
        noise = torch.from_numpy(rng.normal(0, 0.1, image.shape).astype(np.float32))
        return image + noise, self.labels[index]


def main():
    args = arguments(ARCHS, epochs=4)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    train_set = Augmented(x_train, y_train, args.seed, args.mended)
    loader = DataLoader(train_set, batch_size=64, shuffle=True, num_workers=2)
    model = build(args.arch)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for epoch in range(args.epochs):
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: {accuracy(model, x_valid, y_valid):.4f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    main()
