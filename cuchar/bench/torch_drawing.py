"""How PyTorch draws the next character of each stream: as its users write it, or in the quickest way that was found.

Both ways make a function of ids [S] and of the state before them, h and c [L, S, H], which returns the ids that are drawn
after them and the state after them. A peer draws by softmax at temperature 1.
"""

from collections.abc import Callable

import torch
from torch.nn import functional

Next = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]


def by_lstm(lstm: torch.nn.LSTM, head: torch.nn.Linear, one_hot: torch.Tensor) -> Next:
    """By nn.LSTM over the rows of `one_hot`, and by torch.multinomial."""

    def next_of(ids: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out, (h, c) = lstm(functional.embedding(ids[None], one_hot), (h, c))
        return torch.multinomial(head(out[0]).float().softmax(-1), 1)[:, 0], h, c

    return next_of


def by_cells(lstm: torch.nn.LSTM, head: torch.nn.Linear) -> Next:
    """By the cells written out, and by a cumulative sum.

    It is for torch.compile, which takes nothing that has to do with an nn.LSTM. Compiled, it is the quickest way: noisy
    logits take longer than the sum, and torch.multinomial is not made one kernel with what comes before.
    """
    names = ("weight_ih", "weight_hh", "bias_ih")
    layers = [[lstm.get_parameter(f"{name}_l{layer}") for name in names] for layer in range(lstm.num_layers)]

    def next_of(ids: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, states = ids, []
        for layer, (inputs, recurrent, bias) in enumerate(layers):
            below = functional.linear(x, inputs) if layer else functional.embedding(x, inputs.T)
            i, f, g, o = (below + functional.linear(h[layer], recurrent, bias)).chunk(4, -1)
            cell = f.sigmoid() * c[layer] + i.sigmoid() * g.tanh()
            x = o.sigmoid() * cell.tanh()
            states.append((x, cell))
        reached = head(x).float().softmax(-1).cumsum(-1)
        drawn = torch.sum(reached < torch.rand_like(reached[:, :1]) * reached[:, -1:], -1)
        return drawn, *map(torch.stack, zip(*states, strict=True))

    return next_of
