"""Losses of every objective, against diffusers' schedulers and a loop in float64."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, DDIMScheduler
from torch.testing import assert_close

from videodit.families import sampling_of
from videodit.flow import shift_sigma
from videodit.shapes import Size3D
from videodit.training.config import Noise
from videodit.training.data import MicroBatch
from videodit.training.objective import Diffusion

PATCH = Size3D(1, 2, 2)


def batch(given: tuple[bool, ...] = (False, False, False), **more) -> MicroBatch:
    count = len(given)
    return MicroBatch(
        clean=torch.randn(count, 4, 3, 4, 4),
        noise=torch.randn(count, 4, 3, 4, 4),
        quantile=torch.tensor([0.2, 0.5, 0.9])[:count],
        given=torch.tensor(given),
        embeds=torch.randn(count, 5, 8),
        mask=torch.tensor([[True] * 5] * (count - 1) + [[True] * 3 + [False] * 2]),
        **more,
    )


class Spy:
    """A model that predicts one thing and remembers what it was given."""

    def __init__(self, prediction):
        self.prediction = prediction

    def __call__(self, latents, timestep, text, **given):
        self.latents, self.timestep, self.text, self.given = latents, timestep, text, given
        return (self.prediction,)


def flow(**more) -> Diffusion:
    return Diffusion("flow", PATCH, "uniform", **more)


def test_a_flow_model_is_asked_for_the_velocity():
    data, diffusion = batch(), flow(shift=3.0)
    spy = Spy(data.noise - data.clean)
    losses = diffusion.losses(spy, data, dtype=torch.float32)
    assert_close(losses, torch.zeros(3))
    sigma = shift_sigma(data.quantile, 3.0)
    assert_close(spy.timestep, sigma * 1000)
    expected = (1 - sigma.view(-1, 1, 1, 1, 1)) * data.clean + sigma.view(-1, 1, 1, 1, 1) * data.noise
    assert_close(spy.latents, expected)
    assert spy.given["encoder_attention_mask"] is data.mask


def test_the_loss_is_the_mean_square_of_every_value():
    data = batch()
    prediction = torch.randn_like(data.clean)
    losses = flow().losses(Spy(prediction), data, dtype=torch.float32)
    error = (prediction - (data.noise - data.clean)).double()
    assert_close(losses.double(), (error**2).flatten(1).mean(1), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("objective", "scheduler"),
    [
        ("epsilon", DDIMScheduler(prediction_type="epsilon")),
        ("v", CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)),
    ],
)
def test_other_objectives_follow_their_scheduler(objective, scheduler):
    data = batch()
    diffusion = Diffusion(objective, PATCH, "uniform", signal=scheduler.alphas_cumprod.float())
    steps = (data.quantile * 1000).long()
    noisy = scheduler.add_noise(data.clean, data.noise, steps)
    target = data.noise if objective == "epsilon" else scheduler.get_velocity(data.clean, data.noise, steps)
    spy = Spy(target)
    assert_close(diffusion.losses(spy, data, dtype=torch.float32), torch.zeros(3), atol=1e-9, rtol=0)
    assert_close(spy.latents, noisy)
    assert spy.timestep.tolist() == steps.tolist()


def test_a_predicted_variance_does_not_count():
    data = batch()
    both = torch.cat([data.noise, torch.randn_like(data.noise)], dim=1)
    diffusion = Diffusion("epsilon", PATCH, "uniform", signal=DDIMScheduler().alphas_cumprod)
    assert_close(diffusion.losses(Spy(both), data, dtype=torch.float32), torch.zeros(3))


def test_a_given_first_frame_is_clean_has_timestep_zero_and_no_loss():
    data = batch(given=(True, False, True))
    prediction = (data.noise - data.clean).clone()
    prediction[:, :, 0] += 5.0
    spy = Spy(prediction)
    losses = flow().losses(spy, data, dtype=torch.float32)
    assert losses[0] == losses[2] == 0
    assert losses[1] == pytest.approx(25 / 3)
    assert torch.equal(spy.latents[0, :, 0], data.clean[0, :, 0])
    assert not torch.equal(spy.latents[1, :, 0], data.clean[1, :, 0])
    steps = spy.timestep.view(3, 3, 4)  # three frames of four tokens
    assert (steps[0, 0] == 0).all()
    assert_close(steps[0, 1:], torch.full((2, 4), 200.0))
    assert_close(steps[1], torch.full((3, 4), 500.0))


def test_an_image_is_never_given():
    data = batch(given=(True, True, True))
    image = MicroBatch(**{**data.tensors, "clean": data.clean[:, :, :1], "noise": data.noise[:, :, :1]})
    spy = Spy(image.noise - image.clean)
    flow().losses(spy, image, dtype=torch.float32)
    assert spy.timestep.shape == (3,)


def test_what_a_family_takes_besides_goes_along():
    data = batch(pooled=torch.randn(3, 6), channels=torch.randn(3, 2, 3, 4, 4), tokens=torch.randn(3, 7, 9))
    spy = Spy(data.noise - data.clean)
    flow(guidance=1.5, fps=12.0).losses(spy, data, dtype=torch.float32)
    assert spy.latents.shape == (3, 6, 3, 4, 4)
    assert torch.equal(spy.latents[:, 4:], data.channels)
    assert spy.given["guidance"].tolist() == [1.5] * 3
    assert spy.given["fps"] == 12.0
    assert torch.equal(spy.given["pooled_projections"], data.pooled)
    assert torch.equal(spy.given["encoder_hidden_states_image"], data.tokens)


def test_longer_clips_are_noisier():
    diffusion = flow(shift=2.0, shift_tokens=100)
    quantile = torch.tensor([0.5])
    assert_close(diffusion.sigma(quantile, 100), shift_sigma(quantile, 2.0))
    assert_close(diffusion.sigma(quantile, 400), shift_sigma(quantile, 4.0))
    assert_close(flow(shift=2.0).sigma(quantile, 400), shift_sigma(quantile, 2.0))


def pipe(objective="flow", experts=1, keeps_first=True, way="WanPipeline", **config) -> SimpleNamespace:
    geometry = SimpleNamespace(patch=PATCH, num_tokens=lambda t, h, w: 80)
    defaults = SimpleNamespace(num_frames=17, height=64, width=64, num_inference_steps=50)
    scheduler = SimpleNamespace(config={"shift": 2.0} | config, alphas_cumprod=torch.linspace(1, 0, 1000))
    return SimpleNamespace(
        objective=objective,
        name_or_path="tiny",
        spec=SimpleNamespace(
            experts=experts, keeps_first=keeps_first, sees_zeros=False, geometry=geometry, defaults=defaults
        ),
        scheduler=scheduler,
        sampling=sampling_of(way)[1],
        config=SimpleNamespace(boundary_ratio=0.875),
        transformer=SimpleNamespace(config=SimpleNamespace(guidance_embeds=False)),
    )


def test_the_shift_is_the_schedulers_own():
    found = Diffusion.of(pipe(), Noise(), expert=None, fps=16)
    assert (found.shift, found.shift_tokens, found.density) == (2.0, 80, "logit_normal")
    assert Diffusion.of(pipe(), Noise(shift=5.0), expert=None, fps=16).shift_tokens is None


def test_a_dynamic_shift_is_that_of_the_models_own_clip():
    line = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
    found = Diffusion.of(pipe(use_dynamic_shifting=True, **line), Noise(), expert=None, fps=16)
    mu = 0.5 + (1.15 - 0.5) / (4096 - 256) * (80 - 256)
    assert found.shift == pytest.approx(2.718281828**mu)


def test_flux2_is_trained_at_the_shift_that_it_is_sampled_with():
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    found = Diffusion.of(pipe(way="Flux2Pipeline", use_dynamic_shifting=True), Noise(), expert=None, fps=16)
    assert found.shift == pytest.approx(2.718281828 ** compute_empirical_mu(80, 50))


def test_experts_share_the_noise_levels():
    high, low = (Diffusion.of(pipe(experts=2), Noise(shift=3.0), expert=e, fps=16) for e in ("high", "low"))
    quantiles = torch.tensor([1e-6, 0.5, 1 - 1e-6])
    assert high.sigma(quantiles, 80).min() >= 0.8749
    assert low.sigma(quantiles, 80).max() <= 0.8751
    assert high.sigma(quantiles, 80).max() > 0.99
    assert low.sigma(quantiles, 80).min() < 0.05


@pytest.mark.parametrize(
    ("model", "noise", "expert", "message"),
    [
        (pipe(experts=2), Noise(), None, "method.expert must be high or low"),
        (pipe(), Noise(), "high", "one transformer, got method.expert='high'"),
        (pipe(keeps_first=False), Noise(first_frame=0.5), None, "first_frame is 0.5"),
        (pipe(objective="v"), Noise(shift=2.0), None, "models that predict v have none"),
    ],
)
def test_what_a_model_cannot_do_is_refused(model, noise, expert, message):
    with pytest.raises(ValueError, match=message):
        Diffusion.of(model, noise, expert=expert, fps=16)
