"""A recurrent network for texts: embedding, one LSTM, the mean of its states, a dense layer.

Source: Hochreiter, Schmidhuber 1997, "Long short-term memory"; Gers, Schmidhuber, Cummins 2000 (the forget gate). The
mean over time, which reaches every word in one step, is that of Graves 2012 and usual since; sizes are ours.
Deviation: one direction only. It reads from left to right, so padding behind a text cannot change a state before it,
whatever the batch; PyTorch's packed sequences do the same and cannot be exported.
"""

from __future__ import annotations

from torch import Tensor, nn

from dimwise.models._parts import scale
from dimwise.models._tokens import Words, mean_of, present, text_shape


class LSTMClassifier(nn.Module):
    """y = W · mean_t h_t + b with h = LSTM(embedding); the mean is over the tokens, not over the padding.

    Dropout acts on the embedded words and before the last layer.
    """

    def __init__(self, vocabulary: int, n_outputs: int, *, width: float, dropout: float) -> None:
        super().__init__()
        n_embedding, n_hidden = scale(128, width), scale(128, width)
        self.embedding = Words(vocabulary, n_embedding)
        self.drop_words = nn.Dropout(dropout)
        self.lstm = nn.LSTM(n_embedding, n_hidden, batch_first=True)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(n_hidden, n_outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) int64 → (N, n_outputs)."""
        states, _ = self.lstm(self.drop_words(self.embedding(tokens)))  # (N, T, H)
        return self.fc(self.drop(mean_of(states, present(tokens))))


def lstm(
    input_shape: tuple[int, ...], n_outputs: int, *, width: float = 1.0, dropout: float = 0.0, vocabulary: int = 0
) -> LSTMClassifier:
    """128 · width numbers a word and as many units.

    Args:
        input_shape: (T,), tokens of one text, 0 where it has ended.
        n_outputs: numbers returned for one text.
        width: factor on the embedding and the units.
        dropout: probability, on embedded words and before the last layer.
        vocabulary: how many different tokens there are, at least 2.

    Example:
        >>> import torch
        >>> net = lstm((4,), 2, width=0.25, vocabulary=10).eval()
        >>> text, padded = torch.tensor([[3, 5]]), torch.tensor([[3, 5, 0, 0]])
        >>> torch.allclose(net(text), net(padded))
        True
    """
    text_shape("lstm", input_shape, vocabulary)
    return LSTMClassifier(vocabulary, n_outputs, width=width, dropout=dropout)
