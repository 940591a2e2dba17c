"""What the tests of the kernels share: derivatives by `torch.func`, and those that must be refused."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch.autograd import forward_ad

Function = Callable[..., torch.Tensor]


def gradients_of_func(function: Function, tensors: Sequence[torch.Tensor], direction: torch.Tensor) -> tuple:
    """Return the gradients of all tensors by `torch.func.vjp`, along a direction of the result."""
    _, pull_back = torch.func.vjp(function, *(each.detach() for each in tensors))
    return pull_back(direction)


def assert_refuses_forward_mode(function: Function, tensors: Sequence[torch.Tensor]) -> None:
    """Check that both of torch's ways to forward derivatives, and a Jacobian built of them, are refused."""
    plain = [each.detach() for each in tensors]
    refusal = "`derivative` must be taken in reverse mode through the kernels, got forward mode; use torch"
    with pytest.raises(ValueError, match=refusal):
        torch.func.jvp(function, tuple(plain), tuple(map(torch.ones_like, plain)))
    with pytest.raises(ValueError, match=refusal):
        torch.func.jacfwd(function)(*plain)
    with forward_ad.dual_level(), pytest.raises(ValueError, match=refusal):
        function(forward_ad.make_dual(plain[0], torch.ones_like(plain[0])), *plain[1:])


def assert_refuses_second_order(function: Function, tensors: Sequence[torch.Tensor]) -> None:
    """Check that a gradient of a gradient is an error in our words, by `torch.func` as by autograd."""

    def slope(first: torch.Tensor) -> torch.Tensor:
        return torch.func.grad(lambda each: function(each, *tensors[1:]).square().sum())(first).sum()

    refusal = r"`derivative` must be of first order through the kernels, got one of a kernel that has none; "
    with pytest.raises(ValueError, match=refusal):
        torch.func.grad(slope)(tensors[0].detach())
    (gradient,) = torch.autograd.grad(function(*tensors).square().sum(), tensors[0], create_graph=True)
    with pytest.raises(ValueError, match=refusal):
        gradient.sum().backward()
