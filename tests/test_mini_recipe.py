"""The parts of the training example that have rules of their own: forms, shards, given parts, words, numbers."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
from collections import Counter
from dataclasses import replace
from itertools import islice
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import mini.dit
import mini.latents
import mini.models
import pytest
import torch
from mini.ahead import ahead
from mini.attention import SeenAttention, attend_plainly, watch_text_attention
from mini.batches import (
    ANCHORED,
    DROPPED,
    MIDDLE_OF_TAIL,
    TEXT_STEP,
    Feed,
    history_levels,
    keep_mask,
    make_batch,
    object_weights,
    partners,
    step_batch,
)
from mini.clips import coverage, describe, rendered, scene_from, scene_values
from mini.curves import SIZE, draw_curves
from mini.fixed_loss import fixed_clips, fixed_loss
from mini.flops import dit_flops, vae_flops
from mini.grounding import grounding_loss
from mini.latents import Encoder, Shard, Stock, Stored, load_latents, plan_shards, shard_scenes
from mini.models import adopt_vae, assemble, check_init, deepen, start_text, start_tokenizer
from mini.names import CLASSES, UNSAID, names, spoken_tokens
from mini.optimizers import KernelMuon, muon_and_adamw
from mini.processes import gather
from mini.recipe import PRESETS, Form, Recipe
from mini.text import Heads, as_table, captions_of
from mini.trainer import Step, Trainer
from mini.tune import choose, set_defaults
from mini.vae import start_vae, step_scenes
from mini.words import build_tokenizer, copy_embeddings
from safetensors.torch import save_file
from spawned import drawn
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from videodit import CausalVideoVAE, VideoDiT
from videodit.datasets.toybox import caption, known_words, sample_scene
from videodit.errors import Stopped
from videodit.pipelines.folders import resolve_model
from videodit.shapes import Size3D
from videodit.training.checkpoints import CheckpointStore
from videodit.training.log import read_log

CPU_PRESET = PRESETS["cpu"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(0, 300)


# ---- forms


@pytest.mark.parametrize("name", ["cpu", "gpu", "tiny"])
def test_presets_have_images_and_clips_in_three_aspect_ratios(name: str) -> None:
    recipe = PRESETS[name]
    forms = recipe.forms()
    assert sum(forms.values()) == pytest.approx(1)
    assert {form.frames for form in forms} == {1, 17, 33}
    sizes = {(form.height, form.width) for form in forms}
    assert len(sizes) == 3
    assert {(w, h) for h, w in sizes} == sizes  # wide and tall are each other's mirror image
    assert len(forms) == 9
    for form in forms:
        batches = recipe.scaled(recipe.dit_batch, form)
        if recipe is not PRESETS["tiny"]:
            assert batches * form.tokens == pytest.approx(recipe.dit_batch * recipe.form.tokens, rel=0.03)


def test_steps_draw_forms_by_their_shares_and_always_the_same() -> None:
    drawn = [CPU_PRESET.draw_form(3, step) for step in range(4000)]
    assert drawn == [CPU_PRESET.draw_form(3, step) for step in range(4000)]
    for form, share in CPU_PRESET.forms().items():
        assert Counter(drawn)[form] / 4000 == pytest.approx(share, abs=0.025)
    two = [Form(1, 64, 64), Form(33, 64, 64)]
    assert {CPU_PRESET.draw_form(3, step, two) for step in range(100)} == set(two)


def test_more_on_a_cpu_goes_on_from_the_model_that_a_gpu_made() -> None:
    more, gpu = PRESETS["cpu-more"], PRESETS["gpu"]
    assert list(more.forms()) == [more.form] == [gpu.form]
    for name in ("vae_config", "dit_config"):
        assert getattr(more, name)() == getattr(gpu, name)()
    assert (more.shift, more.window, more.text_layers) == (gpu.shift, gpu.window, gpu.text_layers)
    check_init(more, resolve_model("mini"))


@pytest.mark.parametrize(("name", "millions"), [("cpu", (2.68, 7.0, 1.55)), ("gpu", (2.68, 10.2, 1.55))])
def test_networks_are_as_large_as_promised(
    name: str, millions: tuple[float, ...], tokenizer: PreTrainedTokenizerFast
) -> None:
    recipe = PRESETS[name]
    with torch.device("meta"):
        parts = CausalVideoVAE(**recipe.vae_config()), VideoDiT(**recipe.dit_config())
        models = (*parts, T5EncoderModel(recipe.text_config(tokenizer)))
    counts = [sum(p.numel() for p in model.parameters()) / 1e6 for model in models]
    assert counts == pytest.approx(millions, rel=0.02)
    assert 2 * sum(counts) < 30  # megabytes in bf16


# ---- the text encoder


def test_names_say_what_a_caption_says_of_each_object() -> None:
    for seed in range(200):
        scene = sample_scene(seed)
        sentence = caption(scene, seed=seed)
        found = names(sentence, scene)
        assert [one.classes["place"] for one in found] == list(range(len(scene.objects)))
        said = {(CLASSES["color"][one.classes["color"]], CLASSES["shape"][one.classes["shape"]]) for one in found}
        assert said == {(thing.color, thing.shape) for thing in scene.objects}
        for one in found:
            (thing,) = [t for t in scene.objects if CLASSES["color"].index(t.color) == one.classes["color"]
                        and CLASSES["shape"].index(t.shape) == one.classes["shape"]][:1]  # fmt: skip
            words = sentence[one.start : one.end].split()
            assert len(words) == len(one.classes) - 2  # the place and the motion are in no word of a name
            for name in ("size", "material"):
                if name in one.classes:
                    assert CLASSES[name][one.classes[name]] == getattr(thing, name)


def test_the_motion_of_one_of_two_twins_is_not_guessed() -> None:
    scene = sample_scene(0, num_objects=2)
    one, other = scene.objects
    twins = replace(scene, objects=(one, replace(other, color=one.color, shape=one.shape)))
    sentence = f"a {one.color} {one.shape} and a {one.color} {one.shape}"
    assert [found.classes["motion"] for found in names(sentence, twins)] == [UNSAID, UNSAID]
    (found,) = names(f"the {one.color} {one.shape}", scene)
    assert CLASSES["motion"][found.classes["motion"]] == one.motion


def test_tokens_of_names_are_to_tell_of_their_object_and_no_others(tokenizer: PreTrainedTokenizerFast) -> None:
    scenes = [sample_scene(seed) for seed in range(24)]
    batch = captions_of(scenes, tokenizer, torch.Generator().manual_seed(3))
    again = captions_of(scenes, tokenizer, torch.Generator().manual_seed(3))
    assert torch.equal(batch.ids, again.ids)
    silent = []
    for row, scene in enumerate(scenes):
        places = batch.classes["place"][row]
        silent.append(bool((batch.classes["motion"][row] == UNSAID).all()))
        for number in range(len(scene.objects)):
            tokens = places == number
            name = tokenizer.decode(batch.ids[row][tokens]).strip(" ,")  # a comma may be of the last token
            (found,) = names(name, scene)
            assert name == name[found.start : found.end]
            for kind in ("color", "shape"):
                assert set(batch.classes[kind][row][tokens].tolist()) == {found.classes[kind]}
        assert (batch.classes["color"][row][places == UNSAID] == UNSAID).all()
        assert (places[batch.mask[row] == 0] == UNSAID).all()
    assert 0 < sum(silent) < len(scenes)  # captions of images say nothing of motions


def test_an_encoder_begins_as_the_table_of_another_and_all_of_it_can_learn(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    recipe = PRESETS["tiny"]
    old, encoder = (T5EncoderModel(recipe.text_config(tokenizer)).eval() for _ in range(2))
    torch.nn.init.uniform_(old.encoder.final_layer_norm.weight, 0.5, 2.0)
    as_table(encoder, old)
    ids = torch.randint(3, len(tokenizer), (2, 9))
    alone = old(input_ids=ids.reshape(-1, 1)).last_hidden_state.reshape(2, 9, -1)
    torch.testing.assert_close(encoder(input_ids=ids).last_hidden_state, alone, rtol=1e-4, atol=1e-4)

    classes = {name: torch.randint(len(values), ids.shape) for name, values in CLASSES.items()}
    classes["material"].fill_(UNSAID)
    told = Heads(recipe.text_dim)(encoder(input_ids=ids).last_hidden_state, classes)
    assert told["material"] == (0, 0)
    loss = sum(error for error, _ in told.values())
    assert loss.isfinite()
    loss.backward()
    last = [(b.layer[0].SelfAttention.o, b.layer[1].DenseReluDense.wo) for b in encoder.encoder.block]
    assert all(layer.weight.grad.any() for pair in last for layer in pair)


def test_an_encoder_of_other_tokens_is_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    recipe = PRESETS["tiny"]
    encoder = start_text(recipe, tokenizer, None)
    encoder.save_pretrained(tmp_path / "text" / "export")
    tokenizer.save_pretrained(tmp_path / "text" / "export")
    loaded = start_text(recipe, tokenizer, None, tmp_path / "text" / "export")
    assert torch.equal(loaded.get_input_embeddings().weight, encoder.get_input_embeddings().weight)
    with pytest.raises(SystemExit, match=r"was trained with other tokens: remove .*text and run --stage text again"):
        start_text(recipe, build_tokenizer(1, 200), None, tmp_path / "text" / "export")


# ---- depth


def test_deeper_transformer_begins_as_the_same_function() -> None:
    """Until the further blocks have learned something, which all of them can."""
    torch.manual_seed(0)
    recipe = PRESETS["tiny"]
    shallow, deep = (VideoDiT(**recipe.dit_config() | {"num_layers": n}) for n in (2, 5))
    for parameter in shallow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    deepen(deep, shallow)
    given = torch.randn(2, 4, 3, 4, 4), torch.tensor([100.0, 900.0]), torch.randn(2, 7, recipe.text_dim)
    expected, found = shallow(*given).sample, deep(*given).sample
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected)
    found.square().mean().backward()
    silent = [block for block in deep.blocks if not block.ffn.net[2].weight.any()]
    assert len(silent) == 3
    assert all(block.attn1.to_out[0].weight.grad.any() and block.ffn.net[2].weight.grad.any() for block in silent)
    deepen(deep, deep)
    assert len([block for block in deep.blocks if not block.ffn.net[2].weight.any()]) == 3


def test_init_may_have_fewer_layers_and_not_more(tmp_path: Path) -> None:
    recipe = PRESETS["tiny"]
    text = {"d_model": recipe.text_dim, "num_layers": recipe.text_layers, "d_ff": 3 * recipe.text_dim, "num_heads": 4}
    (tmp_path / "model_index.json").write_text("{}")

    def write(layers: int) -> None:
        dit = recipe.dit_config() | {"num_layers": layers}
        for part, config in (("vae", recipe.vae_config()), ("transformer", dit), ("text_encoder", text)):
            (tmp_path / part).mkdir(exist_ok=True)
            (tmp_path / part / "config.json").write_text(json.dumps(config))

    for layers in (1, 2):
        write(layers)
        check_init(recipe, tmp_path)
    write(3)
    with pytest.raises(ValueError, match="transformer has num_layers=3, not 2"):
        check_init(recipe, tmp_path)


# ---- shards


def test_shards_follow_each_other_and_the_shares_however_few_there_are() -> None:
    shards = list(plan_shards(CPU_PRESET))
    ends = [shard.first + shard.clips for shard in shards]
    assert [shard.first for shard in shards] == [0, *ends[:-1]]
    assert ends[-2] < CPU_PRESET.clips <= ends[-1]
    assert shards[0] == Shard(0, CPU_PRESET.shard, CPU_PRESET.form)
    forms = CPU_PRESET.forms()
    assert {shard.form for shard in shards[: len(forms)]} == set(forms)
    for count in (60, 100, 150):
        made = Counter(shard.form for shard in islice(shards, count))
        assert all(abs(made[form] - share * count) <= 1 for form, share in forms.items())


def test_scenes_survive_json() -> None:
    for seed in range(20):
        scene = sample_scene(seed)
        assert scene_from(json.loads(json.dumps(scene_values(scene)))) == scene


def test_images_are_told_without_motion() -> None:
    """Not even of rest: "still" is a motion, too, and some of its combinations are held out."""
    image, clip = Form(1, 64, 64), Form(17, 64, 64)
    told = [describe(sample_scene(seed), image, seed) for seed in range(300)]
    assert told == [caption(sample_scene(seed), seed=seed, moving=False) for seed in range(300)]
    moving = "still static rest stay stand sit lie mov slid fall spin bounc circl zoom pan orbit follow camera"
    words = {word for text in told for word in text.replace(",", "").split()}
    assert not [word for word in words if word.startswith(tuple(moving.split()))]
    assert [describe(sample_scene(n), clip, n) for n in range(9)] == [
        caption(sample_scene(n), seed=n) for n in range(9)
    ]


def test_shards_of_another_autoencoder_seed_or_form_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = PRESETS["tiny"]
    shards = list(plan_shards(recipe))[:2]
    encoded = []

    def encode(vae: Any, recipe: Recipe, batch: list[Any], form: Form) -> tuple[torch.Tensor, torch.Tensor]:
        encoded.append(form)
        return torch.zeros(len(batch), 1, 1, 1, 1), torch.zeros(len(batch), 3, 1, 1, 1, dtype=torch.uint8)

    def make(seed: int, forms: list[Form]) -> None:
        plan = [shard._replace(form=form) for shard, form in zip(shards, forms, strict=True)]
        monkeypatch.setattr(mini.latents, "plan_shards", lambda recipe: iter(plan))
        mini.latents.encode_latents(recipe, tmp_path, 10.0, torch.device("cpu"), seed)

    monkeypatch.setattr(mini.latents, "encode", encode)
    start_vae(recipe, None).save_pretrained(tmp_path / "vae" / "export")
    forms = [shard.form for shard in shards]
    make(7, forms)
    (tmp_path / "latents" / "0000000.safetensors").rename(tmp_path / "first")  # what is missing comes before the rest
    name = f"{shards[1].first:07d}.safetensors"
    with pytest.raises(SystemExit, match=f"{name} was made with seed 7, not 8"):
        make(8, forms)
    with pytest.raises(SystemExit, match=rf"{name} was made with form .*{list(forms[1])[1]}.*, not"):
        make(7, [forms[0], Form(1, 8, 8)])
    assert load_latents(tmp_path).keys() == {forms[1]}
    start_vae(recipe, None).save_pretrained(tmp_path / "vae" / "export")
    with pytest.raises(SystemExit, match=f"{name} was made with vae "):
        make(7, forms)
    with pytest.raises(SystemExit, match=f"{name} was made with vae "):
        load_latents(tmp_path)
    assert encoded == forms


def test_shards_that_do_not_say_where_objects_are_are_refused(tmp_path: Path) -> None:
    start_vae(PRESETS["tiny"], None).save_pretrained(tmp_path / "vae" / "export")
    (tmp_path / "latents").mkdir()
    about = {"vae": mini.models.weights_hash(tmp_path / "vae" / "export"), "form": "[1, 8, 8]", "scenes": "[]"}
    save_file({"latents": torch.zeros(1)}, tmp_path / "latents" / "0000000.safetensors", metadata=about)
    with pytest.raises(SystemExit, match=r"holds no coverage by each object: remove .* and run --stage latents again"):
        load_latents(tmp_path)


@pytest.mark.parametrize("form", [Form(17, 32, 48), Form(1, 32, 32)], ids=str)
def test_coverage_is_the_share_of_a_latents_pixels_that_are_an_objects(form: Form) -> None:
    _, mask = rendered(CPU_PRESET, [sample_scene(1), sample_scene(2)], form, torch.device("cpu"), masks=True)
    assert mask is not None
    found = coverage(mask)
    assert found.dtype == torch.uint8
    assert found.shape == (2, 3, 1 + (form.frames - 1) // 4, form.height // 8, form.width // 8)
    assert [bool(one.any()) for one in found[0]] == [number < len(sample_scene(1).objects) for number in range(3)]
    for n, k, t, h, w in ((0, 0, 0, 1, 2), (1, 0, found.shape[2] - 1, 2, 1)):
        frames = slice(0, 1) if t == 0 else slice(4 * t - 3, 4 * t + 1)  # the first frame's latents are its own
        pixels = mask[n, k, frames, 8 * h : 8 * h + 8, 8 * w : 8 * w + 8]
        assert int(found[n, k, t, h, w]) == round(float(pixels.mean()) * 255)


# ---- latents that are made beside the training


SMALL = replace(
    PRESETS["tiny"], frame_shares=((17, 1.0),), size_shares=((32, 32, 1.0),), shard=4, clips=14, repeats=2.0, stock=6
)


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    torch.manual_seed(0)
    start_vae(SMALL, None).save_pretrained(tmp_path / "vae" / "export")
    return Encoder(SMALL, tmp_path, torch.device("cpu"), 7)


def test_stock_grows_by_what_was_asked_for(encoder: Encoder, tmp_path: Path) -> None:
    stock = Stock(encoder)
    counts = [len(stock.upto(clips).scenes) for clips in (1, 4, 5, 3, 11, 1000)]
    assert counts == [4, 4, 8, 8, 12, 16]
    held = stock.upto(16)
    assert [scene["seed"] for scene in held.scenes] == list(range(7, 23))
    assert len(held.latents) == len(held.coverage) == 16
    assert held.latents.shape[2:] == held.coverage.shape[2:]
    files = sorted((tmp_path / "latents").iterdir())
    times = [file.stat().st_mtime_ns for file in files]
    again = Stock(encoder).upto(10)  # what is there is not made again, and what comes later does not show
    assert [file.stat().st_mtime_ns for file in files] == times
    assert again.scenes == held.scenes[:12]
    assert torch.equal(again.latents, held.latents[:12])
    assert load_latents(tmp_path)[SMALL.form].scenes == held.scenes


def test_resumed_feed_gives_the_same_batches(encoder: Encoder, tokenizer: PreTrainedTokenizerFast) -> None:
    """Whatever the run before had encoded by then."""

    def feed(first: int) -> Feed:
        stock = Stock(encoder)
        return Feed(SMALL, {SMALL.form: stock.upto(SMALL.stock)}, stock, tokenizer, torch.device("cpu"), 3, 0)

    whole, late = feed(0), feed(3)
    steps = [whole.at(step) for step in range(6)]
    sizes = [4 * -(-min(14, 6 + 4 * step // 2) // 4) for step in range(6)]  # 4 samples a step, each clip for two
    assert len(whole.stored[SMALL.form].scenes) == sizes[-1] == 16
    for step in (3, 4):
        form, clean, batch = late.at(step)
        assert form == SMALL.form
        assert torch.equal(clean, steps[step][1])
        assert all(torch.equal(a, b) for a, b in zip(batch, steps[step][2], strict=True))
        assert len(late.stored[form].scenes) == sizes[step]


def test_workers_cannot_see_latents_that_come_later(encoder: Encoder, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(SystemExit, match="--workers must be 0; got 2"):
        Feed(SMALL, {}, Stock(encoder), tokenizer, torch.device("cpu"), 3, 2)


def test_run_without_an_autoencoder_takes_that_of_the_model_it_starts_from(tmp_path: Path) -> None:
    init, out = resolve_model("mini"), tmp_path / "run"
    adopt_vae(out, None)
    assert not out.exists()
    adopt_vae(out, init)
    assert mini.models.weights_hash(out / "vae" / "export") == mini.models.weights_hash(init / "vae")
    (out / "vae" / "export" / "config.json").write_text("{}")
    adopt_vae(out, init)  # its own by now
    assert (out / "vae" / "export" / "config.json").read_text() == "{}"


def test_last_phase_has_the_first_form_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    recipe = PRESETS["tiny"]
    stored = {
        form: Stored(
            torch.zeros(2, 4, 1 + (form.frames - 1) // 4, form.height // 8, form.width // 8),
            [scene_values(sample_scene(n)) for n in range(2)],
            torch.zeros(2, 3, 1 + (form.frames - 1) // 4, form.height // 8, form.width // 8, dtype=torch.uint8),
        )
        for form in recipe.forms()
    }
    feed = Feed(recipe, stored, None, tokenizer, torch.device("cpu"), 3, 0)
    forms = [feed.at(step)[0] for step in range(12)]
    assert forms == [recipe.draw_form(3, step) for step in range(12)]
    assert len(set(forms)) > 2
    assert {feed.at(step, last_phase=True)[0] for step in range(12, 20)} == {recipe.form}


# ---- what is prepared ahead


@pytest.mark.slow
def test_workers_are_spawned_and_make_the_same_in_the_same_order() -> None:
    for workers in (0, 2):
        made = list(ahead(functools.partial(drawn, 7), range(5, 15), workers, torch.device("cpu")))
        assert len({pid for pid, _, _ in made} - {os.getpid()}) == workers
        assert all(ignores for _, ignores, _ in made) == bool(workers)
        for (_, _, found), seed in zip(made, range(12, 22), strict=True):
            assert torch.equal(found, torch.rand(3, generator=torch.Generator().manual_seed(seed)))


def test_what_the_stages_prepare_ahead_can_be_sent_to_a_spawned_worker(tokenizer: PreTrainedTokenizerFast) -> None:
    form = CPU_PRESET.form
    values = [scene_values(sample_scene(n)) for n in range(20)]
    covered = torch.zeros(20, 3, 5, 8, 8, dtype=torch.uint8)
    whole = {form: Stored(torch.zeros(20, 16, 5, 8, 8), values, covered)}
    shape = {form: Stored(torch.zeros(20, 16, 5, 8, 8, device="meta"), values, covered)}
    for here, sent in (
        (
            functools.partial(step_batch, CPU_PRESET, whole, {form: 4}, tokenizer, 3, [form]),
            functools.partial(step_batch, CPU_PRESET, shape, {form: 4}, tokenizer, 3, [form]),
        ),
        (functools.partial(step_scenes, CPU_PRESET, 3, dict.fromkeys(CPU_PRESET.forms(), 2), 2),) * 2,
        (functools.partial(shard_scenes, 3, [Shard(0, 2, form), Shard(2, 2, form)]),) * 2,
    ):
        packed = bytes(ForkingPickler.dumps(sent))
        again = ForkingPickler.loads(packed)
        for one, other in zip(here(1), again(1), strict=True):
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_batches_are_functions_of_their_seeds(tokenizer: PreTrainedTokenizerFast) -> None:
    form = CPU_PRESET.form
    covered = torch.zeros(300, 3, 5, 8, 8, dtype=torch.uint8)
    stored = Stored(torch.empty(300, 16, 5, 8, 8), [scene_values(sample_scene(n)) for n in range(300)], covered)
    batch = make_batch(CPU_PRESET, stored, form, 400, tokenizer, 1000, 3)
    for part, again in zip(batch, make_batch(CPU_PRESET, stored, form, 400, tokenizer, 1000, 3), strict=True):
        assert torch.equal(part, again)
    other = make_batch(CPU_PRESET, stored, form, 400, tokenizer, 1000, 4)
    assert all(
        not torch.equal(getattr(batch, name), getattr(other, name))
        for name in batch._fields
        if name not in ("frames", "kept_sigma", "weight", "covered")
    )
    dropped = batch.mask.sum(1) == 1  # the end alone
    assert dropped.float().mean() == pytest.approx(DROPPED, abs=0.04)
    assert batch.ids.shape == batch.mask.shape == (400, TEXT_STEP)  # one length for all captions
    for i in (~dropped).nonzero().flatten().tolist():
        scene = scene_from(stored.scenes[batch.picked[i]])
        assert tokenizer.decode(batch.ids[i], skip_special_tokens=True) == describe(scene, form, 1000 + i)
    assert batch.sigma.shape == (400,)
    assert batch.keep.shape == (400, 1, 5, 8, 8)
    assert batch.weight.shape == (400, 1, 5, 8, 8)
    assert (batch.weight == 1).all()  # `cpu` weighs no objects
    assert (batch.kept_sigma == 0).all()  # and knows what is given clean alone


def test_noise_levels_can_lean_to_where_shapes_are_decided(tokenizer: PreTrainedTokenizerFast) -> None:
    form = CPU_PRESET.form
    covered = torch.zeros(4, 3, 5, 8, 8, dtype=torch.uint8)
    stored = Stored(torch.empty(4, 16, 5, 8, 8), [scene_values(sample_scene(n)) for n in range(4)], covered)
    low, middle, high = (
        make_batch(replace(CPU_PRESET, sigma_mean=mean), stored, form, 50, tokenizer, 0, 3).sigma
        for mean in (-1.0, 0.0, 1.0)
    )
    assert (low < middle).all()
    assert (middle < high).all()
    assert (high < 1).all()


def test_objects_count_more_below_a_noise_level() -> None:
    recipe = replace(CPU_PRESET, flow_object_weight=3.0, flow_object_below=0.7)
    covered = torch.zeros(3, 3, 2, 6, 6, dtype=torch.uint8)
    covered[:, 0, 1, 2, 3], covered[:, 2, 1, 2, 3] = 200, 55  # by two objects together
    covered[:, 1, 0, 5, 5] = 51
    weight = object_weights(recipe, covered, torch.tensor([0.1, 0.69, 0.7]))
    assert weight.shape == (3, 1, 2, 6, 6)
    assert (weight[2] == 1).all()
    assert torch.equal(weight[0], weight[1])
    expected = torch.ones(2, 6, 6)
    expected[1, 1:4, 2:5] = 4  # with a rim
    expected[0, 4:, 4:] = 1.6
    torch.testing.assert_close(weight[0, 0], expected)


def test_error_on_an_object_weighs_in_the_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    """The same networks and noise: more weight where nothing is given, none where all is."""
    torch.manual_seed(0)
    recipe = PRESETS["tiny"]
    dit, text = VideoDiT(**recipe.dit_config()), T5EncoderModel(recipe.text_config(tokenizer))
    covered = torch.zeros(2, 3, 2, 4, 4, dtype=torch.uint8)
    stored = Stored(torch.zeros(2, 4, 2, 4, 4), [scene_values(sample_scene(n)) for n in range(2)], covered)
    batch = make_batch(recipe, stored, Form(5, 32, 32), 8, tokenizer, 0, 3)
    clean = torch.zeros(8, 4, 2, 4, 4)
    clean[:, :, :, :2] = 5.0  # a zero network errs by the noise less this

    def loss(weight: torch.Tensor) -> float:
        torch.manual_seed(1)
        with torch.no_grad():
            return float(mini.dit.dit_loss(dit, text, clean, batch._replace(weight=weight)))

    plain, more = torch.ones(8, 1, 2, 4, 4), torch.ones(8, 1, 2, 4, 4)
    more[..., :2, :] = 10.0
    assert loss(2 * plain) == pytest.approx(loss(plain))
    assert loss(more) > 1.3 * loss(plain)


def test_partner_is_the_next_clip_of_the_same_ground_and_light() -> None:
    places = [("sand", "night"), ("snow", "night"), ("sand", "night"), ("sand", "sunset"), ("sand", "night")]
    assert partners([{"ground": ground, "light": light} for ground, light in places]).tolist() == [2, 1, 4, 3, 0]


def test_contrast_drives_from_the_partners_velocity(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    recipe = PRESETS["tiny"]
    dit, text = VideoDiT(**recipe.dit_config()), T5EncoderModel(recipe.text_config(tokenizer))
    covered = torch.zeros(1, 3, 2, 4, 4, dtype=torch.uint8)
    stored = Stored(torch.zeros(1, 4, 2, 4, 4), [scene_values(sample_scene(0))], covered)
    batch = make_batch(recipe, stored, Form(5, 32, 32), 3, tokenizer, 0, 3)
    batch = batch._replace(partner=torch.tensor([1, 0, 2]), keep=torch.zeros_like(batch.keep))
    clean = torch.randn(3, 4, 2, 4, 4)

    def loss(contrast: float) -> float:
        torch.manual_seed(1)
        with torch.no_grad():
            return float(mini.dit.dit_loss(dit, text, clean, batch, contrast=contrast))

    torch.manual_seed(1)
    velocity = torch.randn_like(clean) - clean  # the network says 0, so what it errs by is this
    error = velocity.square().mean(dim=(1, 2, 3, 4))
    assert loss(0.0) == pytest.approx(float(error.mean()), rel=1e-4)
    assert loss(0.5) == pytest.approx(float((error[:2].sum() * 0.5 + error[2]) / 3), rel=1e-4)


def test_loss_on_objects_is_that_of_the_latents_that_they_cover(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    recipe = PRESETS["tiny"]
    dit, text = VideoDiT(**recipe.dit_config()), T5EncoderModel(recipe.text_config(tokenizer))
    pipe = assemble(dit, text, tokenizer, start_vae(recipe, None).eval(), recipe)
    fixed = fixed_clips(pipe, recipe, 3)
    assert fixed.scenes == [sample_scene(n, split="validation") for n in range(3)]
    assert fixed.latents.shape[2:] == fixed.coverage.shape[2:] == (5, 4, 4)
    found = fixed_loss(pipe, fixed)
    assert found == fixed_loss(pipe, fixed)
    assert 0.9 < found["all"] < 4  # a velocity that nobody has learned
    on_objects = fixed.coverage.sum(dim=1, keepdim=True) > 0
    far = fixed._replace(latents=torch.where(on_objects, 9.0, 0.0).expand_as(fixed.latents))
    found = fixed_loss(pipe, far)
    assert found["objects"] > 60 > found["all"]


def test_plain_attention_is_that_of_the_model(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    dit = VideoDiT(**PRESETS["tiny"].dit_config())
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    given = torch.randn(2, 4, 3, 4, 4), torch.tensor([100.0, 900.0]), torch.randn(2, 7, 32), mask
    expected = dit(*given).sample
    expected.square().mean().backward()
    gradients = [p.grad.clone() for p in dit.parameters()]
    dit.zero_grad()
    attend_plainly(dit)
    found = dit(*given).sample
    torch.testing.assert_close(found, expected)
    found.square().mean().backward()
    for parameter, gradient in zip(dit.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


# ---- who is named


def test_tokens_of_a_name_belong_to_the_object_that_is_meant(tokenizer: PreTrainedTokenizerFast) -> None:
    scene = sample_scene(0, num_objects=2)
    one, other = scene.objects
    sentence = f"the {other.color} {other.shape}, and a {one.color} {one.shape} at night"
    tokens = tokenizer(sentence, return_offsets_mapping=True, return_tensors="pt")
    spoken = spoken_tokens(tokens["offset_mapping"][0], sentence, scene)
    assert spoken.shape == (3, tokens["input_ids"].shape[1])
    said = [tokenizer.decode(tokens["input_ids"][0][mine]).strip(" ,") for mine in spoken]
    assert said == [f"{one.color} {one.shape}", f"{other.color} {other.shape}", ""]
    assert not spoken_tokens(tokens["offset_mapping"][0], "", scene).any()


def test_grounding_is_the_cross_entropy_of_the_name_that_is_attended_to(tokenizer: PreTrainedTokenizerFast) -> None:
    """Beside a loop in float64 over the tokens that an object covers by more than half."""
    torch.manual_seed(0)
    recipe = PRESETS["tiny"]
    covered = torch.randint(0, 256, (6, 3, 2, 4, 4), dtype=torch.uint8)
    covered[:, 1:] //= 3
    stored = Stored(torch.zeros(6, 4, 2, 4, 4), [scene_values(sample_scene(n)) for n in range(6)], covered)
    batch = make_batch(recipe, stored, Form(5, 32, 32), 12, tokenizer, 0, 3)
    watched = [SeenAttention(), SeenAttention()]
    for one in watched:
        one.weights = torch.rand(12, 8, batch.ids.shape[1]).softmax(-1)
    errors = []
    for weights in (one.weights.double() for one in watched if one.weights is not None):
        for b in range(12):
            said = [k for k in range(3) if batch.spoken[b, k].any()]
            attended = {k: weights[b][:, batch.spoken[b, k]].sum(1) for k in said}
            for token, (t, h, w) in enumerate((t, h, w) for t in range(2) for h in range(2) for w in range(2)):
                for k in said if len(said) > 1 else []:
                    part = batch.covered[b, k, t, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2].double() / 255
                    if part.mean() > 0.5:
                        errors.append(-torch.log(attended[k][token] / sum(a[token] for a in attended.values())))
    assert len(errors) > 10
    assert float(grounding_loss(watched, batch)) == pytest.approx(float(torch.stack(errors).mean()), rel=1e-3)
    alone = batch._replace(spoken=batch.spoken & (torch.arange(3)[:, None] == 0))
    assert float(grounding_loss(watched, alone)) == 0.0  # one name leaves nothing to take for another


def test_attention_that_is_watched_is_that_of_the_model_and_can_learn(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mini.dit, "autocast", lambda device: contextlib.nullcontext())  # in bf16 the two differ more
    torch.manual_seed(0)
    recipe = PRESETS["tiny"]
    dit, text = VideoDiT(**recipe.dit_config()), T5EncoderModel(recipe.text_config(tokenizer))
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    covered = torch.full((4, 3, 2, 4, 4), 0, dtype=torch.uint8)
    covered[:, 0, :, :2], covered[:, 1, :, 2:] = 255, 255
    scenes = [scene_values(sample_scene(n, num_objects=2)) for n in range(4)]
    batch = make_batch(recipe, Stored(torch.zeros(4, 4, 2, 4, 4), scenes, covered), Form(5, 32, 32), 8, tokenizer, 0, 3)
    clean = torch.randn(8, 4, 2, 4, 4)

    def loss() -> float:
        torch.manual_seed(1)
        return mini.dit.dit_loss(dit, text, clean, batch).item()

    expected = loss()
    watched = watch_text_attention(dit, 1)
    assert len(watched) == recipe.layers - 1
    assert loss() == pytest.approx(expected, rel=1e-5)
    optimizer = torch.optim.Adam([*dit.parameters(), *text.parameters()], lr=1e-2)
    found = []
    for _ in range(60):
        loss()
        error = grounding_loss(watched, batch)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        found.append(error.item())
    assert found[-1] < 0.5 * found[0]


# ---- the loop


@pytest.mark.parametrize(("dtype", "away"), [(torch.bfloat16, 1e-5), (torch.float32, 5e-3)], ids=str)
def test_muon_of_all_matrices_of_a_shape_is_torchs_of_each(
    dtype: torch.dtype, away: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bf16 to the last digits; fp32 rounds otherwise."""
    monkeypatch.setattr("mini.optimizers.compute_dtype", lambda device: dtype)
    torch.manual_seed(0)
    shapes = [(8, 12), (8, 12), (12, 8), (6, 2, 3, 3, 3), (6, 2, 3, 3, 3), (8, 8)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    ours[3].data = ours[3].data.contiguous(memory_format=torch.channels_last_3d)
    theirs = [torch.nn.Parameter(p.detach().clone().contiguous().flatten(1)) for p in ours]
    muon = KernelMuon(ours, 0.1)
    torchs = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.contiguous().flatten(1).clone()
        if step == 2:  # one that had no part in the loss stays as it is
            ours[1].grad = theirs[1].grad = None
        muon.step()
        torchs.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.flatten(1), other, rtol=1e-5, atol=away)


def trainer(folder: Path, *, minutes: float = 1e-6, width: int = 4, **more: Any) -> Trainer:
    """A trainer of one layer; in so few minutes it takes one step."""
    net = torch.nn.Linear(width, width)
    return Trainer(folder, {"net": net}, muon_and_adamw([net], muon_lr=0.1, adam_lr=0.1), minutes=minutes, **more)


def train(of: Trainer, *, steps: float = float("inf")) -> None:
    """Let it train; the power goes out after so many steps."""
    net = of.modules["net"]

    def step(generator: torch.Generator) -> Step:
        if of.step >= steps:
            raise RuntimeError("power is out")
        loss = net(torch.ones(1, net.in_features)).square().sum()
        loss.backward()
        return Step({"loss": loss}, 1, 1.0)

    of.run(step)


def saved(folder: Path) -> dict[str, Any]:
    store = CheckpointStore(folder / "checkpoints", keep=1)
    (path,) = store.all()
    checkpoint = store.open(path)
    return {"step": checkpoint.step, **checkpoint.about}


def test_learning_rates_reach_muon_after_a_resume(tmp_path: Path) -> None:
    train(trainer(tmp_path))
    resumed = trainer(tmp_path, minutes=1)
    resumed._set_lr()
    assert resumed.step == 1
    for optimizer in resumed.optimizers:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 2 / 50)


def test_trainer_counts_steps_in_place_of_minutes(tmp_path: Path) -> None:
    of = trainer(tmp_path, minutes=float("inf"), steps=4, warmup_steps=1)
    rates = []
    set_lr = of._set_lr

    def noted() -> None:
        set_lr()
        rates.append(of.optimizers[0].param_groups[0]["lr"])

    of._set_lr = noted  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="power"):
        train(of, steps=1)
    of.save()
    train(of)
    assert of.step == 4
    assert of.done == 1
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.05])  # step 1 again after the power was out


def test_state_is_saved_before_a_validation_and_with_the_best_weights(tmp_path: Path) -> None:
    """Minutes between other saves have not passed."""
    before = []

    def validate() -> dict[str, float]:
        before.append(saved(tmp_path)["step"])
        return {"adherence": 0.5}

    with pytest.raises(RuntimeError, match="power"):
        train(trainer(tmp_path, minutes=1, validate=validate, validate_minutes=1e-9), steps=2)
    assert before == [1, 2]
    step, seconds, adherence = saved(tmp_path)["validated"]
    assert (step, adherence) == (2, 0.5)
    assert seconds == saved(tmp_path)["seconds"] > 0
    trainer(tmp_path)
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl")] == [1, 2]


def test_signal_in_the_last_validation_lets_it_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = []
    save = Trainer.save

    def noted(self: Trainer) -> None:
        handlers.append(signal.getsignal(signal.SIGINT))
        save(self)

    def validate() -> dict[str, float]:
        signal.raise_signal(signal.SIGTERM)
        return {"adherence": 0.5}

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    monkeypatch.setattr(Trainer, "save", noted)
    with pytest.raises(Stopped, match="stopped at step 1"):
        train(trainer(tmp_path, validate=validate))
    assert before[1] not in handlers
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert saved(tmp_path)["validated"][0] == 1


def test_half_written_line_of_the_log_is_dropped(tmp_path: Path) -> None:
    folder = tmp_path / "dit"
    train(trainer(folder))
    log = folder / "log.jsonl"
    with log.open("a") as file:
        file.write('{"kind": "train", "step": 1, "sec')
    assert [row["step"] for row in read_log(log)] == [1]
    assert draw_curves(tmp_path).is_file()
    trainer(folder)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1]
    assert not list(folder.glob("*.tmp"))


def test_state_of_other_networks_is_refused(tmp_path: Path) -> None:
    train(trainer(tmp_path))
    with pytest.raises(SystemExit, match=rf"{tmp_path} holds .* another preset .*net.bias is \(4,\) there and \(5,\)"):
        trainer(tmp_path, width=5)


def test_best_weights_of_another_measure_do_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def measured(by: str, adherence: float) -> Trainer:
        return trainer(tmp_path, validate=lambda: {"adherence": adherence}, measured_by={"vae": "v", "probe": by})

    train(measured("old", 0.9))
    assert measured("old", 0.1).best() == 0.9
    assert "does not count" not in capsys.readouterr().out
    other = measured("new", 0.1)
    assert "best.safetensors was chosen with another vae or probe" in capsys.readouterr().out
    assert other.best() is None
    train(other)  # no time is left, yet the weights are measured again
    assert other.step == 1
    assert other.best() == 0.1


# ---- given parts of a clip


@pytest.fixture(scope="module")
def keep() -> torch.Tensor:
    """Masks [B,T,H,W] of many samples."""
    mask = keep_mask(3000, Size3D(5, 8, 6), Size3D(1, 2, 2), torch.Generator().manual_seed(0))
    assert mask.shape == (3000, 1, 5, 8, 6)
    assert mask.dtype == torch.bool
    return mask[:, 0]


def test_two_fifths_of_the_samples_are_given_something_and_none_everything(keep: torch.Tensor) -> None:
    given = keep.flatten(1).any(1).float().mean()
    assert 0.35 < given < 0.42
    assert not keep.flatten(1).all(1).any()


def test_given_parts_are_whole_patches(keep: torch.Tensor) -> None:
    patches = keep.unflatten(2, (4, 2)).unflatten(4, (3, 2))
    assert torch.equal(patches.any(5).any(3), patches.all(5).all(3))


def test_given_parts_follow_the_seven_patterns(keep: torch.Tensor) -> None:
    given = keep[keep.flatten(1).any(1)]
    whole = given.flatten(2)
    by_frame = whole.all(2) == whole.any(2)  # a frame is given as a whole or not at all
    frames = {tuple(row) for row in whole.all(2)[by_frame.all(1)].int().tolist()}
    leading = {(1,) * n + (0,) * (5 - n) for n in range(1, 5)}
    ends = {(1,) * n + (0,) * (5 - n - m) + (1,) * m for n in range(1, 5) for m in range(1, 5 - n)}
    assert frames == leading | {row[::-1] for row in leading} | ends
    boxes = ~given[~by_frame.all(1)]
    assert torch.equal(boxes, boxes[:, :1].expand_as(boxes))
    for box in boxes[:100, 0]:  # what is missing is one rectangle
        assert torch.equal(box, box.any(1)[:, None] & box.any(0))
    assert 0.05 < len(boxes) / len(given) < 0.2


def test_windows_from_the_middle_begin_with_given_frames() -> None:
    generator = torch.Generator().manual_seed(0)
    keep = keep_mask(600, Size3D(5, 8, 6), Size3D(1, 2, 2), generator, middle=True)[:, 0].flatten(2)
    assert torch.equal(keep.all(2), keep.any(2))
    assert keep[:, 0].all()
    assert not keep.flatten(1).all(1).any()
    assert 0.15 < keep[:, -1].all(1).float().mean() < 0.35
    keep = keep_mask(600, Size3D(5, 8, 6), Size3D(1, 2, 2), generator, middle=True, anchored=True)[:, 0].flatten(2)
    assert keep[:, :2].all()  # the anchor, and what was made last
    assert not keep.flatten(1).all(1).any()


def test_longer_clips_are_cut_in_the_middle_too(tokenizer: PreTrainedTokenizerFast) -> None:
    form = Form(33, 64, 64)
    scenes = [scene_values(sample_scene(n)) for n in range(4)]
    stored = Stored(torch.zeros(4, 1, 9, 8, 8), scenes, torch.zeros(4, 3, 9, 8, 8, dtype=torch.uint8))
    spans = set()
    for seed in range(60):
        batch = make_batch(CPU_PRESET, stored, form, 2, tokenizer, 0, seed)
        assert batch.keep.shape[2] == len(batch.frames)
        spans.add((int(batch.frames[0]), len(batch.frames)))
    assert spans == {(0, 9), (1, 8)} | {(n, 5) for n in range(1, 5)}


def test_clips_with_a_tail_are_cut_to_their_form(tokenizer: PreTrainedTokenizerFast) -> None:
    form = Form(17, 64, 64)
    scenes = [scene_values(sample_scene(n)) for n in range(4)]
    stored = Stored(torch.zeros(4, 1, 7, 8, 8), scenes, torch.zeros(4, 3, 7, 8, 8, dtype=torch.uint8))
    begins, anchored = [], 0
    for seed in range(300):
        batch = make_batch(CPU_PRESET, stored, form, 2, tokenizer, 0, seed)
        frames = batch.frames.tolist()
        begins.append(frames[1] - 1)
        assert frames[1:] == list(range(begins[-1] + 1, begins[-1] + 5))
        assert frames[0] in (0, begins[-1])
        assert not begins[-1] or batch.keep[:, :, 0].all()
        if begins[-1] and not frames[0]:
            anchored += 1
            assert batch.keep[:, :, 1].all()
        assert batch.keep.shape[2] == batch.weight.shape[2] == 5
    middle = len(begins) - begins.count(0)
    assert set(begins) == {0, 1, 2}
    assert middle / len(begins) == pytest.approx(MIDDLE_OF_TAIL, abs=0.06)
    assert anchored / middle == pytest.approx(ANCHORED, abs=0.2)


def test_a_tail_without_clips_that_are_made_beside_is_refused() -> None:
    with pytest.raises(ValueError, match="tail is 8"):
        replace(CPU_PRESET, tail=8)


def test_clips_are_encoded_with_their_tail() -> None:
    first = next(plan_shards(PRESETS["cpu-more"]))
    assert (first.form, first.clips) == (Form(25, 128, 128), 64)


def test_half_of_what_goes_on_from_frames_has_some_noise(keep: torch.Tensor) -> None:
    recipe = replace(CPU_PRESET, history_noise=0.3)
    level = history_levels(recipe, keep[:, None], torch.Generator().manual_seed(0), middle=False)
    noisy = level > 0
    assert level.max() <= 0.3
    assert keep[noisy][:, :2].flatten(1).all()
    goes_on = keep[:, :2].flatten(1).all(dim=1)
    assert noisy.sum() / goes_on.sum() == pytest.approx(0.5, abs=0.1)
    level = history_levels(recipe, keep[:, None], torch.Generator().manual_seed(0), middle=True)
    assert (level > 0).float().mean() == pytest.approx(0.5, abs=0.05)
    assert level[level > 0].mean() == pytest.approx(0.15, abs=0.01)
    assert (history_levels(CPU_PRESET, keep[:, None], torch.Generator(), middle=True) == 0).all()


def test_history_is_seen_with_its_noise_and_told_by_its_timestep(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    recipe = PRESETS["tiny"]
    dit, text = VideoDiT(**recipe.dit_config()), T5EncoderModel(recipe.text_config(tokenizer))
    scenes = [scene_values(sample_scene(0))]
    stored = Stored(torch.zeros(1, 4, 2, 4, 4), scenes, torch.zeros(1, 3, 2, 4, 4, dtype=torch.uint8))
    batch = make_batch(recipe, stored, Form(5, 32, 32), 2, tokenizer, 0, 3)
    keep = torch.zeros(2, 1, 2, 4, 4, dtype=torch.bool)
    keep[:, :, 0] = True
    batch = batch._replace(keep=keep, sigma=torch.tensor([0.8, 0.6]), kept_sigma=torch.tensor([0.25, 0.0]))
    clean, seen = torch.randn(2, 4, 2, 4, 4), []
    dit.register_forward_pre_hook(lambda module, args: seen.append(args))
    torch.manual_seed(1)
    mini.dit.dit_loss(dit, text, clean, batch)
    torch.manual_seed(1)
    noise = torch.randn_like(clean)
    latents, timestep = seen[0][:2]
    torch.testing.assert_close(latents[0, :, 0], 0.75 * clean[0, :, 0] + 0.25 * noise[0, :, 0])
    torch.testing.assert_close(latents[1, :, 0], clean[1, :, 0])
    torch.testing.assert_close(
        latents[:, :, 1],
        torch.stack([0.2 * clean[0, :, 1] + 0.8 * noise[0, :, 1], 0.4 * clean[1, :, 1] + 0.6 * noise[1, :, 1]]),
    )
    torch.testing.assert_close(timestep, torch.tensor([[250.0] * 4 + [800.0] * 4, [0.0] * 4 + [600.0] * 4]))


def test_nothing_of_an_image_is_given() -> None:
    assert not keep_mask(300, Size3D(1, 8, 6), Size3D(1, 2, 2), torch.Generator().manual_seed(0)).any()


# ---- words


def test_tokenizer_knows_every_caption_and_gives_it_back(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [caption(sample_scene(n, split="all"), seed=n) for n in range(5000, 5300)]
    for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
        assert tokenizer.unk_token_id not in ids
        assert ids[-1] == tokenizer.eos_token_id
        assert len(ids) < tokenizer.model_max_length
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer("A Red BALL")["input_ids"] == tokenizer("a red ball")["input_ids"]


def test_tokenizer_has_a_token_for_each_known_word(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.init_kwargs["known_words"] == sorted(known_words())
    for word in known_words():
        assert len(tokenizer(word)["input_ids"]) == 2, word  # itself and the end


def test_tokenizer_of_the_model_that_a_run_starts_from_stays(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """As long as it knows the words of the world."""
    recipe = replace(PRESETS["tiny"], captions=3)
    other = build_tokenizer(1, 3)
    assert other.get_vocab() != tokenizer.get_vocab()
    assert start_tokenizer(recipe, 1, None).get_vocab() == other.get_vocab()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert start_tokenizer(recipe, 1, tmp_path).get_vocab() == tokenizer.get_vocab()
    config = tmp_path / "tokenizer" / "tokenizer_config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"nearest_words": {}}))
    assert start_tokenizer(recipe, 1, tmp_path).init_kwargs["nearest_words"] == values["nearest_words"] != {}
    config.write_text(json.dumps(values | {"known_words": ["ball"]}))
    assert start_tokenizer(recipe, 1, tmp_path).get_vocab() == other.get_vocab()


def test_embeddings_move_to_a_new_vocabulary(tokenizer: PreTrainedTokenizerFast) -> None:
    before = tokenizer.get_vocab()
    old = torch.nn.Embedding(len(before), 4)
    fewer = build_tokenizer(1, 3)  # other captions: other pieces of words, other numbers
    after = fewer.get_vocab()
    new = torch.nn.Embedding(len(after), 4)
    fresh = new.weight.detach().clone()
    copied = copy_embeddings(old, tokenizer, new, fewer)
    assert copied == len(set(before) & set(after)) > 100
    assert any(before[token] != after[token] for token in set(before) & set(after))
    for token, row in after.items():
        expected = old.weight[before[token]] if token in before else fresh[row]
        assert torch.equal(new.weight[row], expected), token


# ---- numbers


@pytest.mark.parametrize("form", [Form(17, 64, 64), Form(1, 48, 80)], ids=str)
def test_transformer_flops_are_those_of_the_formula(form: Form, tokenizer: PreTrainedTokenizerFast) -> None:
    r, words = CPU_PRESET, 20
    d, s = r.heads * r.head_dim, form.tokens - 20
    linear = 8 * s * d * d + 4 * s * d * d + 4 * words * d * d + 16 * s * d * d  # self, cross, cross from text, MLP
    blocks = r.layers * (linear + 4 * s * s * d + 4 * s * words * d)
    edges = 2 * 2 * s * 4 * r.latent_channels * d + 2 * words * (r.text_dim * d + d * d) + 2 * (256 * d + 7 * d * d)
    t = r.text_dim
    text = r.text_layers * (8 * words * t * t + 4 * words**2 * t + 6 * words * t * 3 * t)
    assert dit_flops(r, form, tokenizer, words) == blocks + edges + text


def test_autoencoder_flops_are_those_of_its_convolutions_and_attention() -> None:
    form, total = Form(5, 32, 48), 0
    vae = CausalVideoVAE(**PRESETS["tiny"].vae_config())

    def convolution(module: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += 2 * output.numel() * module.weight[0].numel()

    def attention(module: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        b, c, t, h, w = output.shape
        total += 4 * b * t * (h * w) ** 2 * c

    for module in vae.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d)):
            module.register_forward_hook(convolution)
        elif type(module).__name__ == "FrameAttention":
            module.register_forward_hook(attention)
    with torch.no_grad():
        vae(torch.zeros(1, 3, *form))
    assert vae_flops(PRESETS["tiny"], form) == total


def test_tune_prefers_adherence_then_low_guidance_then_few_steps() -> None:
    def row(mean: float, guidance: float, steps: int) -> dict[str, Any]:
        return {"adherence": mean, "guidance": guidance, "steps": steps}

    assert choose([row(0.8, 2, 10), row(0.9, 5, 10)]) == row(0.9, 5, 10)
    assert choose([row(0.9, 5, 10), row(0.9, 3, 30), row(0.9, 3, 20), row(0.1, 1, 1)]) == row(0.9, 3, 20)


def test_choice_is_written_into_the_model_and_nothing_else_changes(tmp_path: Path) -> None:
    index = {"_class_name": "VideoDiTPipeline", "guidance_scale": 3.0, "num_inference_steps": 20, "width": 64}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    set_defaults(tmp_path, guidance_scale=4.0, num_inference_steps=10)
    after = json.loads((tmp_path / "model_index.json").read_text())
    assert after == index | {"guidance_scale": 4.0, "num_inference_steps": 10}


def test_one_process_gathers_its_own() -> None:
    numbers = torch.arange(3)
    assert gather(numbers) is numbers


def test_curves_have_a_panel_for_each_log_and_kind(tmp_path: Path) -> None:
    for name, kinds in (("vae", ["train"]), ("dit", ["train", "validation"])):
        (tmp_path / name).mkdir()
        rows = [
            {"kind": kind, "step": n, "seconds": 10.0 * n, "loss": 1 / n, "color": 1 - 1 / n}
            for n in range(1, 20)
            for kind in kinds
        ]
        (tmp_path / name / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    from PIL import Image

    with Image.open(draw_curves(tmp_path)) as picture:
        assert picture.size == (SIZE[0], 3 * SIZE[1])
        for i in range(3):
            panel = picture.crop((80, i * SIZE[1] + 50, SIZE[0] - 30, (i + 1) * SIZE[1] - 50)).convert("HSV")
            assert panel.getchannel("S").getextrema()[1] > 150  # a coloured line on white
