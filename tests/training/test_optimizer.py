"""GridAdam: equal to torch.optim.Adam where every row has a gradient; rows without one stay; its state can be kept."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from manvatar.training.optimizer import GridAdam


def parameters() -> list[Tensor]:
    torch.manual_seed(3)
    shapes = [(2, 5, 4, 3, 8), (7, 5), (6,)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def loss_of(tensors: list[Tensor]) -> Tensor:
    return sum(((tensor - 0.3) ** 2).mean() + tensor.sin().sum() for tensor in tensors)


def groups(tensors: list[Tensor]) -> list[dict]:
    return [{"params": tensors[:1], "lr": 0.02}, {"params": tensors[1:], "betas": (0.8, 0.95), "eps": 1e-5}]


def test_equals_adam_where_every_row_has_a_gradient() -> None:
    ours, theirs = parameters(), parameters()
    grid_adam, adam = GridAdam(groups(ours)), torch.optim.Adam(groups(theirs))
    for _ in range(20):
        loss_of(ours).backward()
        grid_adam.step()
        adam.zero_grad()
        loss_of(theirs).backward()
        adam.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    for group in zip(ours, theirs, strict=True):
        mine, other = grid_adam.state[group[0]], adam.state[group[1]]
        assert mine.keys() == other.keys() and mine["step"] == other["step"] == 20
        torch.testing.assert_close(mine["exp_avg_sq"], other["exp_avg_sq"])


def test_without_skipping_it_is_adam_for_empty_rows_too() -> None:
    ours, theirs = parameters(), parameters()
    grid_adam, adam = GridAdam(groups(ours), skip_zero_rows=False), torch.optim.Adam(groups(theirs))
    for step in range(10):
        for tensors, optimizer in ((ours, grid_adam), (theirs, adam)):
            optimizer.zero_grad()
            loss_of([tensor[step % 2 :: 2] for tensor in tensors]).backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_rows_without_gradient_stay_and_their_momentum_waits() -> None:
    grid = torch.randn(10, 8, requires_grad=True)
    optimizer = GridAdam([grid], lr=0.1)
    grid[:5].sum().backward()
    optimizer.step()
    first = grid.detach().clone()
    grid[5:].sum().backward()
    optimizer.step()
    assert torch.equal(grid[:5], first[:5]) and not torch.equal(grid[5:], first[5:])
    assert optimizer.state[grid]["exp_avg"][:5].abs().min() > 0


def test_gradients_keep_their_place_and_are_cleared() -> None:
    (grid, *_) = parameters()
    optimizer = GridAdam([grid])
    place = grid.grad.data_ptr()
    for _ in range(3):
        loss_of([grid]).backward()
        assert grid.grad.data_ptr() == place and grid.grad.abs().max() > 0
        optimizer.step()
        assert not grid.grad.any()


def test_zero_grad_clears_in_place_and_a_missing_gradient_is_left_out() -> None:
    tensors = parameters()
    optimizer = GridAdam(tensors)
    loss_of(tensors).backward()
    optimizer.zero_grad()
    assert all(not tensor.grad.any() for tensor in tensors)
    tensors[0].grad = None
    before = [tensor.detach().clone() for tensor in tensors]
    loss_of(tensors[1:]).backward()
    optimizer.step()
    assert [torch.equal(a, b) for a, b in zip(before, tensors, strict=True)] == [True, False, False]


def test_state_can_be_saved_and_restored() -> None:
    ours, other = parameters(), parameters()
    one, two = GridAdam(groups(ours)), GridAdam(groups(other))
    for step in range(6):
        loss_of(ours).backward()
        one.step()
        if step == 2:
            two.load_state_dict(copy.deepcopy(one.state_dict()))  # the loaded state shares its tensors
            with torch.no_grad():
                for mine, yours in zip(ours, other, strict=True):
                    yours.copy_(mine)
        if step > 2:
            loss_of(other).backward()
            two.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, other, strict=True))


def test_a_closure_is_called_with_gradients() -> None:
    tensors = parameters()
    optimizer = GridAdam(tensors)

    def closure() -> Tensor:
        loss = loss_of(tensors)
        loss.backward()
        return loss

    before = loss_of(tensors).item()
    assert optimizer.step(closure).item() == before
    assert loss_of(tensors).item() < before
