"""How a step's prediction is put together: each wrapper against its formula in float64, around plain functions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from videodit.errors import InputError
from videodit.pipelines.denoising import Prompts
from videodit.pipelines.guidance import Batched, Growing, Guided, InTurn, Shared
from videodit.pipelines.predicting import Experts, Moment, Predict, Reused, Ring, Scene, Scenes
from videodit.shapes import Size3D
from videodit.text import TextTokens

SHAPE = (2, 3, 7, 2, 2)


def at(step: int = 0, t: float = 500.0) -> Moment:
    return Moment(step, torch.tensor(t))


def latents(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(factor: float, calls: list[int] | None = None) -> Predict:
    """``factor·x·t``; each call notes how many latent frames it saw."""

    def predict(x: Tensor, moment: Moment) -> Tensor:
        if calls is not None:
            calls.append(x.shape[2])
        return factor * x * moment.t.double()

    return predict


def towards(velocity: Callable[[Tensor, float], Tensor]) -> Predict:
    return lambda x, moment: velocity(x, float(moment.t))


# ---- experts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "factor"), [(1000.0, 2.0), (875.0, 2.0), (874.9, 3.0), (0.0, 3.0)])
def test_experts_have_the_noise_levels_on_either_side_of_a_boundary(t: float, factor: float) -> None:
    experts = Experts(linear(2.0), linear(3.0), 875.0)
    torch.testing.assert_close(experts(latents(), at(t=t)), linear(factor)(latents(), at(t=t)), atol=0, rtol=0)


# ---- loops -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(5))
def test_a_ring_is_turned_and_the_frame_before_comes_first(step: int) -> None:
    """A prediction that takes each frame's difference from the one before: around a ring it has no beginning."""
    seams: list[Tensor] = []

    def difference(x: Tensor, _: Moment) -> Tensor:
        seams.append(x[0, 0, 1, 0, 0])
        return x - torch.cat([torch.zeros_like(x[:, :, :1]), x[:, :, :-1]], dim=2)

    x = latents()
    found = Ring(difference)(x, at(step))
    for k in range(SHAPE[2]):
        torch.testing.assert_close(found[:, :, k], x[:, :, k] - x[:, :, k - 1], atol=0, rtol=0)
    assert seams[0] == x[0, 0, (-3 * step) % 7, 0, 0]  # 0.382 · 7 frames further each time


def test_a_ring_of_one_frame_follows_itself() -> None:
    assert torch.equal(Ring(linear(1.0))(latents()[:, :, :1], at(3)), 500 * latents()[:, :, :1])


# ---- scenes ------------------------------------------------------------------------------------------


def test_scenes_are_averaged_by_weight_frame_by_frame() -> None:
    weights = torch.tensor([[1, 1, 0.75, 0.5, 0.25, 0, 0], [0, 0, 0.25, 0.5, 0.75, 1, 1]], dtype=torch.float64)
    frames, factors, calls = [slice(0, 5), slice(2, 7)], [2.0, -1.0], list[int]()
    scenes = Scenes([Scene(w, f, linear(factor, calls)) for w, f, factor in zip(weights, frames, factors, strict=True)])
    x, expected = latents(), torch.zeros(SHAPE, dtype=torch.float64)
    for k in range(SHAPE[2]):
        for w, f, factor in zip(weights, frames, factors, strict=True):
            if f.start <= k < f.stop:
                expected[:, :, k] += w[k] * factor * 500 * x[:, :, k]
    torch.testing.assert_close(scenes(x, at()), expected, atol=1e-12, rtol=1e-12)
    assert calls == [5, 5]


# ---- guidance ----------------------------------------------------------------------------------------


class TwoProcesses:
    """Both in one process."""

    def both(self, cond: Callable[[], Tensor], uncond: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        return cond(), uncond()

    def first(self, cond: Callable[[], Tensor], like: Tensor) -> Tensor:
        found = cond()
        assert found.shape == like.shape
        return found


def halves(x: Tensor, moment: Moment) -> Tensor:
    one, other = x.chunk(2)
    return torch.cat([linear(2.0)(one, moment), linear(0.5)(other, moment)])


PAIRS = [
    InTurn(linear(2.0), linear(0.5)),
    Batched(halves, linear(2.0)),
    Shared(linear(2.0), linear(0.5), TwoProcesses()),
]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 7.0])
def test_guidance_leads_one_prediction_away_from_the_other(pair: InTurn | Batched | Shared, scale: float) -> None:
    factor = 2.0 if scale <= 1 else 0.5 + scale * (2.0 - 0.5)
    torch.testing.assert_close(Guided(pair, lambda _: scale)(latents(), at()), 500 * factor * latents())


@pytest.mark.parametrize("may_shorten", [False, True])
def test_a_guided_prediction_is_as_long_in_each_token_as_the_conditional_one(may_shorten: bool) -> None:
    """Tokens of 1×2×2 latents, one by one; that it may be shorter is LongCat-Image's way, else it is Qwen-Image's."""
    cond, uncond = torch.randn(2, 2, 3, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    uncond = cond + uncond
    pair = InTurn(lambda x, moment: cond, lambda x, moment: uncond)
    found = Guided(pair, lambda _: 1.5, kept_norm=Size3D(1, 2, 2), may_shorten=may_shorten)(latents(), at())
    kept = 0
    for clip, row, column in itertools.product(range(2), range(2), range(3)):
        token = (clip, slice(None), 0, slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
        expected = uncond[token] + 1.5 * (cond[token] - uncond[token])
        factor = cond[token].norm() / expected.norm()
        kept += int(factor > 1)
        torch.testing.assert_close(found[token], expected * (factor.clamp(max=1) if may_shorten else factor))
    assert 0 < kept < 12


def test_guidance_grows_over_the_timesteps() -> None:
    steps = 50
    guided = Guided(PAIRS[0], lambda _: 6.0, grown=Growing(steps))
    for t in (999.0, 500.0, 20.0, 0.0):
        scale = 1 + 6.0 * (1 - math.cos(math.pi * ((steps - t) / steps) ** 5)) / 2
        expected = t * (0.5 + scale * 1.5) * latents()
        torch.testing.assert_close(guided(latents(), at(t=t)), expected, atol=1e-10, rtol=1e-6)


def test_a_conditional_step_takes_the_last_difference() -> None:
    """Euler's method over six steps, against the same written out in float64."""
    actions, times = "CFCCFC", [1.0, 0.9, 0.7, 0.4, 0.3, 0.1, 0.0]
    calls: list[int] = []
    cond, uncond = towards(lambda x, t: torch.sin(x) * t), towards(lambda x, t: calls.append(1) or torch.cos(x) + t)
    guided = Guided(InTurn(cond, uncond), lambda _: 3.0, actions=actions)
    x = y = latents()
    difference = torch.zeros(())
    for step, (t, after) in enumerate(itertools.pairwise(times)):
        moment = Moment(step, torch.tensor(t, dtype=torch.float64))
        x = x + (after - t) * guided(x, moment)
        c = torch.sin(y) * t
        if step in (0, 1, 4):  # the first has no difference to take
            difference = c - (torch.cos(y) + t)
        y = y + (after - t) * (c - difference + 3.0 * difference)
    torch.testing.assert_close(x, y, atol=1e-12, rtol=1e-12)
    assert len(calls) == 3


def test_a_difference_does_not_outlive_guidance_that_was_turned_off() -> None:
    scales = [3.0, 1.0, 3.0]
    calls: list[int] = []
    guided = Guided(InTurn(linear(2.0), linear(0.5, calls)), lambda moment: scales[moment.step], actions="FCC")
    for step in range(3):
        guided(latents(), at(step))
    assert len(calls) == 2


def test_guidance_without_a_negative_prompt_is_refused() -> None:
    with pytest.raises(InputError, match=r"raised guidance_scale to 2\.0, but the call has no encoded negative prompt"):
        Guided(PAIRS[0], lambda _: 2.0, negative=False)(latents(), at())
    Guided(PAIRS[0], lambda _: 1.0, negative=False)(latents(), at())


# ---- steps that are left out -------------------------------------------------------------------------


def test_left_out_steps_lie_on_the_line_through_the_last_two() -> None:
    times, calls = [1000.0, 900.0, 700.0, 400.0, 300.0], list[int]()
    reused = Reused(lambda x, moment: calls.append(moment.step) or x * moment.t.double() ** 2, "RRFRR")
    found = [reused(latents(), at(step, t)) for step, t in enumerate(times)]

    def line(t: float, first: float, second: float) -> float:
        return second**2 + (second**2 - first**2) * (t - second) / (second - first)

    squares = [1000.0**2, 1000.0**2, 700.0**2, line(400.0, 1000.0, 700.0), line(300.0, 1000.0, 700.0)]
    for one, square in zip(found, squares, strict=True):
        torch.testing.assert_close(one, square * latents(), atol=1e-6, rtol=1e-12)
    assert calls == [0, 2]  # the first is computed whatever is said of it


# ---- prompts that change -----------------------------------------------------------------------------


def test_what_was_made_of_prompts_goes_when_they_change() -> None:
    def prompts() -> Prompts:
        return Prompts(TextTokens(torch.zeros(1, 3, 4), None), TextTokens(torch.ones(1, 2, 4), None))

    model = object()
    for change, stays in (
        (lambda one: one.change({}), True),
        (lambda one: one.change({"latents": torch.zeros(1)}), True),
        (lambda one: one.change({"negative_prompt_embeds": torch.ones(1, 2, 4)}), False),
        (lambda one: one.change({}, weights=True), False),
        (lambda one: (one.cond.embeds.add_(1), one.change({})), False),
    ):
        one = prompts()
        kept, pair = one.prepared(model, "cond"), one.pair  # type: ignore[arg-type]
        assert one.prepared(model, "uncond") is not kept  # type: ignore[arg-type]
        change(one)
        assert (one.prepared(model, "cond") is kept) is stays  # type: ignore[arg-type]
        assert (one.pair is pair) is stays
    assert one.pair.embeds[0].equal(torch.ones(3, 4))
