"""A loss of one's own: any function of the two tensors that returns a scalar."""

from torch import Tensor


def l1(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).abs().sum(dim=-1).mean()
