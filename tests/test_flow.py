"""Objectives and noise levels against explicit formulas, and in the direction that diffusers' scheduler walks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from torch.testing import assert_close

from videodit.flow import (
    add_noise,
    denoising_loss,
    quantile_of,
    sample_sigma,
    shift_sigma,
    sigma_at,
    token_timesteps,
    training_target,
)
from videodit.shapes import Size3D

SHAPE = (2, 3, 4, 4, 6)  # [B, C, T, H, W]


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """Clean latents and noise."""
    return torch.randn(SHAPE, dtype=torch.float64), torch.randn(SHAPE, dtype=torch.float64)


def first_frames(count: int) -> Tensor:
    """A keep-mask ``[B, 1, T, H, W]`` over leading latent frames."""
    keep = torch.zeros(SHAPE[0], 1, *SHAPE[2:], dtype=torch.bool)
    keep[:, :, :count] = True
    return keep


# --- noise and targets ---------------------------------------------------------------------------


def test_noise_is_mixed_in_by_the_level_of_each_sample(pair: tuple[Tensor, Tensor]) -> None:
    clean, noise = pair
    sigma = torch.tensor([0.25, 0.9], dtype=torch.float64)
    noisy = add_noise(clean, noise, sigma)
    for i, s in enumerate(sigma.tolist()):
        torch.testing.assert_close(noisy[i], (1 - s) * clean[i] + s * noise[i])


def test_kept_latents_stay_exactly_clean(pair: tuple[Tensor, Tensor]) -> None:
    clean, noise = pair
    noisy = add_noise(clean, noise, torch.tensor([0.5, 1.0]), first_frames(1))
    assert torch.equal(noisy[:, :, :1], clean[:, :, :1])
    assert torch.equal(noisy[1, :, 1:], noise[1, :, 1:])


def test_velocity_leads_back_to_the_clean_latents(pair: tuple[Tensor, Tensor]) -> None:
    clean, noise = pair
    sigma = torch.tensor([0.3, 0.8], dtype=torch.float64)
    velocity = training_target("flow", clean, noise)
    torch.testing.assert_close(velocity, noise - clean)
    torch.testing.assert_close(add_noise(clean, noise, sigma) - sigma.view(-1, 1, 1, 1, 1) * velocity, clean)


def test_v_leads_back_to_the_clean_latents(pair: tuple[Tensor, Tensor]) -> None:
    clean, noise = pair
    angle = torch.tensor([0.4, 1.2], dtype=torch.float64)
    alpha, sigma = angle.cos(), angle.sin()
    v = training_target("v", clean, noise, alpha, sigma)
    for i in range(SHAPE[0]):
        noisy = alpha[i] * clean[i] + sigma[i] * noise[i]
        torch.testing.assert_close(alpha[i] * noisy - sigma[i] * v[i], clean[i])
        torch.testing.assert_close(sigma[i] * noisy + alpha[i] * v[i], noise[i])


def test_epsilon_is_the_noise_itself(pair: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(training_target("epsilon", *pair), pair[1])


def test_unknown_objective_is_named(pair: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"objective must be one of flow, v, epsilon, got 'x0'"):
        training_target("x0", *pair)  # type: ignore[arg-type]


@pytest.mark.parametrize("levels", [{}, {"alpha": torch.ones(2)}, {"sigma": torch.ones(2)}])
def test_v_without_both_levels_is_refused(pair: tuple[Tensor, Tensor], levels: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="'v' needs alpha and sigma"):
        training_target("v", *pair, **levels)


# --- noise levels --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sigma", "shift", "expected"), [(0.5, 3.0, 0.75), (0.2, 5.0, 5 / 9), (0.5, 0.5, 1 / 3), (0.7, 1.0, 0.7)]
)
def test_shift_formula(sigma: float, shift: float, expected: float) -> None:
    assert shift_sigma(torch.tensor(sigma, dtype=torch.float64), shift).item() == pytest.approx(expected, rel=1e-12)


def test_shift_is_that_of_the_scheduler() -> None:
    plain, shifted = (FlowMatchEulerDiscreteScheduler(shift=shift).sigmas for shift in (1.0, 3.0))
    torch.testing.assert_close(shift_sigma(plain, 3.0), shifted)


@pytest.mark.parametrize("shift", [0.0, -1.0, math.nan])
def test_shift_that_is_not_above_zero_is_named(shift: float) -> None:
    with pytest.raises(ValueError, match=f"shift must be above 0, got {shift}"):
        sample_sigma(1, shift=shift)


def logit_normal_cdf(sigma: Tensor, mean: float, std: float) -> Tensor:
    return torch.special.ndtr((torch.logit(sigma) - mean) / std)


@pytest.mark.parametrize(
    ("options", "cdf"),
    [
        ({}, lambda s: logit_normal_cdf(s, 0, 1)),
        ({"mean": -0.8, "std": 0.5}, lambda s: logit_normal_cdf(s, -0.8, 0.5)),
        ({"mean": 0.5, "shift": 3.0}, lambda s: logit_normal_cdf(shift_sigma(s, 1 / 3), 0.5, 1)),
        ({"density": "uniform"}, lambda s: s),
        ({"density": "uniform", "shift": 3.0}, lambda s: shift_sigma(s, 1 / 3)),
    ],
    ids=["plain", "mean", "shift", "uniform", "uniform shifted"],
)
def test_levels_follow_their_density(options: dict[str, Any], cdf: Callable[[Tensor], Tensor]) -> None:
    """Kolmogorov and Smirnov's distance to the density; at this many draws 1 % of seeds exceed 0.0115."""
    sigma = sample_sigma(20_000, generator=torch.Generator().manual_seed(1), **options)
    assert sigma.min() > 0
    assert sigma.max() < 1
    ranks = torch.linspace(0, 1, len(sigma), dtype=torch.float64)
    assert (cdf(sigma.double()).sort().values - ranks).abs().max() < 0.0115


@pytest.mark.parametrize("density", ["uniform", "logit_normal"])
def test_levels_depend_on_the_generator_alone(density: Any) -> None:
    def draw(seed: int) -> Tensor:
        return sample_sigma(8, density=density, generator=torch.Generator().manual_seed(seed))

    first = draw(3)
    assert first.shape == (8,)
    assert first.dtype == torch.float32
    assert torch.equal(first, draw(3))
    assert not torch.equal(first, draw(4))


def test_shift_moves_every_level_up() -> None:
    plain, shifted = (sample_sigma(100, shift=s, generator=torch.Generator().manual_seed(0)) for s in (1.0, 3.0))
    assert (shifted > plain).all()


def test_unknown_density_is_named() -> None:
    with pytest.raises(ValueError, match=r"density must be one of .* got 'normal'"):
        sample_sigma(1, density="normal")  # type: ignore[arg-type]


# --- the scheduler walks the way that was trained ------------------------------------------------


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_exact_velocity_walks_along_the_noised_clips(shift: float, deviation: Callable[..., float]) -> None:
    clean, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    velocity = training_target("flow", clean, noise)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(5)
    x = noise
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas[1:], strict=True):
        x = scheduler.step(velocity, t, x, return_dict=False)[0]
        assert deviation(x, add_noise(clean, noise, sigma.expand(2))) <= 1e-6
    assert deviation(x, clean) <= 1e-6


def test_noise_is_that_of_the_scheduler(deviation: Callable[..., float]) -> None:
    """And a timestep is 1000 times the level."""
    clean, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    timesteps = scheduler.timesteps[[100, 900]]
    assert deviation(add_noise(clean, noise, timesteps / 1000), scheduler.scale_noise(clean, timesteps, noise)) <= 1e-6


# --- kept latents --------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [(1, 1, 1), (1, 2, 2), (2, 2, 3), (4, 4, 6)], ids=str)
def test_a_token_is_clean_only_where_its_whole_patch_is_kept(patch: tuple[int, int, int]) -> None:
    size = Size3D(*SHAPE[2:])
    pt, ph, pw = patch
    keep = first_frames(2)
    keep[1] = torch.rand(1, *size) < 0.7  # scattered, so that patches are kept in part
    timestep = torch.tensor([250.0, 800.0])
    expected = [
        [
            0.0 if keep[b, 0, t : t + pt, h : h + ph, w : w + pw].all() else timestep[b].item()
            for t in range(0, size.t, pt)
            for h in range(0, size.h, ph)
            for w in range(0, size.w, pw)
        ]
        for b in range(2)
    ]
    assert token_timesteps(timestep, keep, Size3D(*patch)).tolist() == expected


def test_loss_is_the_mean_squared_error_of_each_sample(pair: tuple[Tensor, Tensor]) -> None:
    prediction, target = pair
    expected = torch.stack([((p - t) ** 2).mean() for p, t in zip(prediction, target, strict=True)])
    torch.testing.assert_close(denoising_loss(prediction, target), expected.float())


def test_loss_averages_over_free_latents_alone(pair: tuple[Tensor, Tensor]) -> None:
    prediction, target = pair
    keep = first_frames(1)
    expected = denoising_loss(prediction[:, :, 1:], target[:, :, 1:])
    prediction = torch.where(keep, 1e6, prediction)
    torch.testing.assert_close(denoising_loss(prediction, target, keep), expected)


def test_weights_shift_the_loss_within_each_sample(pair: tuple[Tensor, Tensor]) -> None:
    prediction, target = pair
    keep, weight = first_frames(1), torch.ones_like(prediction[:, :1])
    torch.testing.assert_close(denoising_loss(prediction, target, keep, 3 * weight), denoising_loss(*pair, keep))
    weight[:, :, :-1] = 0  # the last frame alone counts
    expected = denoising_loss(prediction[:, :, -1:], target[:, :, -1:])
    torch.testing.assert_close(denoising_loss(prediction, target, keep, weight), expected)
    torch.testing.assert_close(denoising_loss(prediction, target, None, weight), expected)
    assert (denoising_loss(prediction, target, keep, 0 * weight) == 0).all()


def test_loss_of_a_clip_that_is_kept_whole_is_zero(pair: tuple[Tensor, Tensor]) -> None:
    keep = first_frames(0)
    keep[1] = True
    loss = denoising_loss(*pair, keep)
    assert loss[0] > 0
    assert loss[1] == 0


def test_loss_is_summed_in_fp32(pair: tuple[Tensor, Tensor]) -> None:
    prediction, target = (x.bfloat16() for x in pair)
    loss = denoising_loss(prediction, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, denoising_loss(prediction.float(), target.float()))


@pytest.mark.parametrize("density", ["uniform", "logit_normal"])
def test_levels_at_quantiles_are_those_of_the_samples(density):
    options = {"density": density, "shift": 3.0} | ({"mean": 0.3, "std": 0.8} if density == "logit_normal" else {})
    drawn = sample_sigma(200_000, generator=torch.Generator().manual_seed(0), **options)
    quantiles = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99])
    levels = sigma_at(quantiles, **options)
    assert_close(levels, drawn.quantile(quantiles), atol=0.005, rtol=0)
    assert_close(quantile_of(levels, **options).float(), quantiles, atol=1e-5, rtol=0)


def test_an_unknown_density_has_no_quantiles():
    with pytest.raises(ValueError, match="density must be one of"):
        sigma_at(torch.tensor([0.5]), density="beta")


def test_noise_with_a_signal_level_of_its_own():
    clean, noise = torch.randn(2, 4, 1, 2, 2), torch.randn(2, 4, 1, 2, 2)
    alpha, sigma = torch.tensor([0.8, 0.6]), torch.tensor([0.6, 0.8])
    noisy = add_noise(clean, noise, sigma, alpha=alpha)
    assert_close(noisy[1], 0.6 * clean[1] + 0.8 * noise[1])
