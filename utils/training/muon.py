"""Muon: momentum whose every direction takes a step of the same size, for the matrices inside a network.

Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam  # the function behind the class

# The odd polynomial a x + b x^3 + c x^5: applied five times, it moves singular values from 0.01..1 to 0.7..1.2.
POLYNOMIAL, ITERATIONS = (3.4445, -4.7750, 2.0315), 5


def orthogonalized(matrices: Sequence[Tensor]) -> list[Tensor]:
    """(rows, columns) each -> the same sizes, all singular values about 1, singular vectors as they were.

    Each step of the polynomial is a square matrix that the result is multiplied by, and tells the next one's Gram
    matrix. So only the first Gram matrix and the product at the end have the length of the longer side, and all
    matrices with the same shorter side take these steps together.
    """
    lying = [matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
    lying = [matrix / (matrix.norm() + 1e-7) for matrix in lying]
    places: dict[int, list[int]] = {}
    for place, matrix in enumerate(lying):
        places.setdefault(len(matrix), []).append(place)
    found = list(lying)
    for alike in places.values():
        products = _polynomial(torch.stack([lying[place] @ lying[place].mT for place in alike]))
        for place, product in zip(alike, products, strict=True):
            found[place] = product @ lying[place]
    return [new.mT if old.shape[0] > old.shape[1] else new for old, new in zip(matrices, found, strict=True)]


def _polynomial(grams: Tensor) -> Tensor:
    """What a matrix is to be multiplied by, told its Gram matrix: (n, side, side) both."""
    a, b, c = POLYNOMIAL
    identity = torch.eye(grams.shape[-1], dtype=grams.dtype, device=grams.device)
    product = identity.expand_as(grams)
    for _ in range(ITERATIONS):
        factor = a * identity + b * grams + c * (grams @ grams)
        product = factor @ product
        grams = factor @ grams @ factor
    return product


def hidden_matrices(model: nn.Module, parts: Iterable[str] = ("",)) -> list[nn.Parameter]:
    """The weights that take features to features: not embeddings, nor layers named `output`, nor what sees one channel.

    parts: how the names of the parts of the model end whose weights count; all by default.
    A convolution counts as the matrix of its output channels by all that they see.
    """
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) or name.rpartition(".")[2] == "output":
            continue
        if not name.partition(".")[0].endswith(tuple(parts)):
            continue
        weights = [weight for weight in module.parameters(recurse=False) if weight.dim() > 1]
        found += [weight for weight in weights if weight.shape[0] > 1 and weight.shape[1] > 1]
    return found


class Muon(torch.optim.Optimizer):
    """Muon for hidden matrices, AdamW for all other weights.

    Groups of parameters: with `is_hidden`, the weights of the former; without, of the latter.   lr: of AdamW; Muon's
    is `hidden_factor` times it, since its steps do not shrink with the gradient's noise.
    """

    def __init__(
        self,
        groups: Iterable[dict],
        lr: float,
        hidden_factor: float = 5.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ):
        defaults = {"lr": lr, "hidden_factor": hidden_factor, "momentum": momentum, "betas": betas}
        super().__init__(list(groups), defaults | {"weight_decay": weight_decay, "is_hidden": False})

    def load_state_dict(self, state_dict: dict) -> None:
        """As torch has it, and counts of steps go to their weights' device: torch knows only its own classes' to."""
        super().load_state_dict(state_dict)
        for weight, state in self.state.items():
            if "step" in state:
                state["step"] = state["step"].to(weight.device)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                (self._step_hidden if group["is_hidden"] else self._step_others)(weights, group)

    def _step_hidden(self, weights: list[Tensor], group: dict) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        averages, gradients = [self.state[weight]["momentum"] for weight in weights], [each.grad for each in weights]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, averages, group["momentum"])  # Nesterov
        updates = orthogonalized([update.flatten(1) for update in updates])
        rate = group["lr"] * group["hidden_factor"]
        torch._foreach_mul_(updates, [-rate * max(1.0, len(update) / update.shape[1]) ** 0.5 for update in updates])
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(
            weights, [update.reshape(weight.shape) for weight, update in zip(weights, updates, strict=True)]
        )

    def _step_others(self, weights: list[Tensor], group: dict) -> None:
        states = [self.state[weight] for weight in weights]
        for weight, state in zip(weights, states, strict=True):
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
                state["mean"], state["square"] = torch.zeros_like(weight), torch.zeros_like(weight)
        adam(
            weights,
            [weight.grad for weight in weights],
            [state["mean"] for state in states],
            [state["square"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            decoupled_weight_decay=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )
