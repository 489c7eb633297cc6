import math

import pytest
import torch

from video_dit.diffusion.solvers import solve


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_exact_on_a_straight_flow(solver: str) -> None:
    latents, noise = torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3, 2, 4, 4)
    solved = solve(lambda x, t: noise - latents, noise, 3, solver, shift=2.0)
    torch.testing.assert_close(solved, latents)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_order_of_convergence(solver: str, order: int) -> None:
    """dx/dt = x cos(3 t) with x(1) = 1 has the solution exp((sin(3 t) - sin(3)) / 3)."""
    exact = math.exp(-math.sin(3) / 3)

    def error(num_steps: int) -> float:
        x = solve(lambda x, t: x * torch.cos(3 * t)[:, None], torch.ones(1, 1, dtype=torch.float64), num_steps, solver)
        return abs(float(x) - exact)

    measured = math.log2(error(64) / error(128))
    assert measured == pytest.approx(order, abs=0.15)


def test_the_model_is_asked_once_a_step_by_euler_and_twice_by_heun_but_for_the_last() -> None:
    for solver, calls_expected in (("euler", 4), ("heun", 7)):
        times, steps = [], []

        def velocity(x: torch.Tensor, t: torch.Tensor, times: list = times) -> torch.Tensor:
            times.append(float(t[0]))
            return torch.zeros_like(x)

        solve(velocity, torch.zeros(1, 1), 4, solver, on_step=steps.append)
        assert len(times) == calls_expected
        assert times[0] == 1
        assert min(times) > 0  # never at the data itself, where a data prediction has no velocity
        assert steps == [1, 2, 3, 4]
