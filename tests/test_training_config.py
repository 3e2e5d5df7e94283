"""Configs of fine-tuning: what is checked, overridden, saved and compared."""

from __future__ import annotations

import pytest
import yaml

from videodit.limits import DEFAULT_LIMITS, current_limits
from videodit.training.config import differences, load_config, preset_names

SMALL = "model: mini\noutput: out\ndata: {cache: cache}\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "lora.yaml"
    path.write_text(SMALL)
    return path


def test_defaults_fill_what_a_file_leaves_out(file):
    config = load_config(file)
    assert (config.method.kind, config.method.rank, config.train.accumulation) == ("lora", 16, 1)
    assert config.data.cache.name == "cache"


def test_overrides_win_and_are_yaml(file):
    config = load_config(file, ["train.steps=7", "validation.prompts=[a red ball, b]", "method.targets=[to_q]"])
    assert config.train.steps == 7
    assert config.validation.prompts == ("a red ball", "b")
    assert config.method.targets == ("to_q",)


def test_a_resolved_config_reads_back_the_same(file, tmp_path):
    config = load_config(file, ["train.ema_decay=0.9", "noise.shift=2.5"])
    saved = tmp_path / "config.yaml"
    saved.write_text(config.to_yaml())
    assert load_config(saved) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=5", r"unknown key train\.stepz; did you mean train\.steps.*; legal here are steps, batch_size"),
        ("trian.steps=5", r"unknown key trian; did you mean train or tracking.*; legal here are model, output"),
        ("train.steps=0", r"train\.steps is 0: .*greater than or equal to 1"),
        ("train.schedule=linear", r"train\.schedule is 'linear': .*'constant' or 'cosine'"),
        ("method.kind=adapter", "'lora', 'full' or 'control'"),
        ("noise.shift=-1", "shift must be above 0 or 'auto', got -1"),
        ("validation.quantiles=[0.5, 1.0]", r"above 0 and below 1, got 1\.0"),
        ("data.holdout=1.0", r"data\.holdout is 1\.0"),
        ("train.steps=true", r"train\.steps is True: a switch is no value"),
        ("train.learning_rate=.inf", r"train\.learning_rate is inf: .*finite"),
        ("noise.mean=.nan", r"noise\.mean is nan: .*finite"),
        ("train.betas=[0.9, 1.0]", r"betas must be at least 0 and below 1, got 1\.0"),
        ("validation.quantiles=[]", r"validation\.quantiles is \[\]: .*at least 1 item"),
        ("validation.images=[a.png]", "images are 1 for 0 prompts"),
        ("validation.seed=18446744073709551616", r"validation\.seed is 18446744073709551616: .*less than"),
        ("tracking.project=../elsewhere", r"tracking\.project is '\.\./elsewhere'"),
        ("export.push_to_hub=toys", r"export\.push_to_hub is 'toys'"),
        ("method.targets=[]", "targets names no layer"),
        ("train", "must be like train.steps=50"),
        ("=5", "must be like train.steps=50"),
        ("train.steps=[", "not valid YAML"),
        ("model.name=5", "model holds no keys"),
    ],
)
def test_bad_values_are_named(file, override, message):
    with pytest.raises(ValueError, match=message):
        load_config(file, [override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.kind=full", "method.dora=true"], "method: dora is True, which is for kind='lora'"),
        (["method.kind=full", "method.targets=[to_q]"], "targets is .*which is for kind='lora'"),
        (["noise.density=uniform", "noise.std=2"], "noise: mean 0.0 and std 2.0 are of density='logit_normal'"),
        (["train.schedule=cosine", "train.warmup_steps=1000"], "train: warmup_steps is 1000 of 1000 steps in all"),
    ],
)
def test_values_that_contradict_each_other(file, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config(file, overrides)


def test_all_bad_values_are_named_at_once(file):
    with pytest.raises(ValueError, match=r"method\.rank is 0.*train\.steps is 0"):
        load_config(file, ["train.steps=0", "method.rank=0"])


def test_what_is_missing_is_named(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("model: mini\n")
    with pytest.raises(ValueError, match=r"output is missing; data is missing"):
        load_config(path)


@pytest.mark.parametrize("text", ["- a\n", "a: [", "\xff"])
def test_a_file_of_something_else(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.yaml"):
        load_config(path)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"does not exist; .* preset: mini-lora, wan-1\.3b-lora, wan-5b-lora"):
        load_config("nothing")


@pytest.mark.parametrize("name", preset_names())
def test_the_configs_that_come_with_it_are_whole(name):
    config = load_config(name)
    assert config.train.steps > 0
    assert load_config(name, ["output=elsewhere"]).output.name == "elsewhere"


def test_differences_that_change_what_is_learned(file):
    before = yaml.safe_load(load_config(file).to_yaml())
    now = load_config(
        file, ["method.rank=8", "train.seed=3", "data.workers=0", "validation.every=5", "output=b", "model=there"]
    )
    assert differences(before, now) == ["method.rank: 16 became 8", "train.seed: 0 became 3"]


def test_more_steps_are_no_difference_at_a_constant_rate(file):
    before = yaml.safe_load(load_config(file).to_yaml())
    assert differences(before, load_config(file, ["train.steps=5000"])) == []
    cosine = yaml.safe_load(load_config(file, ["train.schedule=cosine"]).to_yaml())
    assert differences(cosine, load_config(file, ["train.schedule=cosine", "train.steps=5000"])) == [
        "train.steps: 1000 became 5000"
    ]


def test_limits_are_set_by_the_names_of_the_commands(file):
    config = load_config(file, ["limits.picture_pixels=100", "limits.prompt_characters=30_000"])
    with config.limits_held():
        assert (current_limits().picture_pixels, current_limits().prompt_characters) == (100, 30_000)
        assert current_limits().clip_frames == DEFAULT_LIMITS.clip_frames
    assert current_limits() == DEFAULT_LIMITS
    assert differences(load_config(file).model_dump(mode="json"), config) == []


@pytest.mark.parametrize(
    "override", ["limits.picture_pixel=9", "limits.clip_frames=0", "limits.clip_frames=yes", "limits=3"]
)
def test_a_wrong_limit_is_named(file, override):
    with pytest.raises(ValueError, match=r"limits.*(unknown limit|whole number)"):
        load_config(file, [override])
