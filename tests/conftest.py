"""What every test stands on: a clean import path, no network, and random numbers that do not leak."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from postgres import PostgresServer
    from servers import ServerProcess

ROOT = Path(__file__).resolve().parent.parent
SEED = 0
REQUIRE_GPU = "VIDEODIT_REQUIRE_GPU"
M = TypeVar("M", bound=nn.Module)

# huggingface_hub reads this when it is first imported, which only tests do.
os.environ["HF_HUB_OFFLINE"] = "1"
# With the root on the path (`python -m pytest`, PYTHONPATH) the folder `datasets/` would hide Hugging Face's
# package of that name. videodit itself is found where it is installed.
sys.path = [entry for entry in sys.path if Path(entry).resolve() != ROOT]


def pytest_configure() -> None:
    """Tiny tensors gain nothing from threads, which wait for each other busily where tests share a machine.

    Losses that are compared to the last bit need as many in every process.
    """
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip GPU tests in the open where there is no GPU, or fail them where one was promised."""
    if item.get_closest_marker("gpu") is None or torch.cuda.is_available():
        return
    if os.environ.get(REQUIRE_GPU) == "1":
        pytest.fail(f"{REQUIRE_GPU}=1, but there is no CUDA device", pytrace=False)
    pytest.skip(f"no CUDA device ({REQUIRE_GPU}=1 makes this a failure)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Put every global generator back as it was found, wide fixtures and teardown included."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        seed_everything()
        result = yield
    random.setstate(python_state)
    np.random.set_state(numpy_state)
    return result


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server, or a skip that says why there is none."""
    from postgres import postgres_server, why_not

    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the saved tiny pipeline of a case of `tiny_families` by its name. Tests copy what they change."""
    from tiny_families import save_pipeline

    saved: dict[str, Path] = {}

    def save(name: str) -> Path:
        if name not in saved:
            torch.manual_seed(0)
            saved[name] = tmp_path_factory.mktemp("pipelines") / name
            save_pipeline(name, saved[name])
        return saved[name]

    return save


@pytest.fixture(autouse=True)
def _own_log_level() -> Generator[None, None, None]:
    """A script that turns the pipeline's notices off does so for the whole process, which is its own but not ours."""
    logger = logging.getLogger("videodit.pipelines")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture(autouse=True)
def _own_attention_backend() -> Generator[None, None, None]:
    """A model's ``set_attention_backend`` also sets that of the whole process."""
    yield
    if (dispatch := sys.modules.get("diffusers.models.attention_dispatch")) is not None:
        dispatch._AttentionBackendRegistry.set_active_backend(
            dispatch.AttentionBackendName(dispatch.DIFFUSERS_ATTN_BACKEND)
        )


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start each test from one seed, whether or not a wide fixture drew numbers just before it."""
    seed_everything()


def seed_everything() -> None:
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Generator[None, None, None]:
    """What commands keep in the user's own folders goes elsewhere, and nothing of it is found from before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user-cache")))
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("user-data")))
        patch.setenv("VIDEODIT_CONFIG", str(tmp_path_factory.mktemp("user-config") / "config.toml"))
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def source_files(root: Path) -> list[PurePosixPath]:
    """All files of the working tree that git does not ignore, relative to the root."""
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    return [PurePosixPath(name) for name in listed.splitlines() if (root / name).is_file()]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder with tiny random networks: 32×32, 17 frames, seconds to load and run."""
    from diffusers import FlowMatchEulerDiscreteScheduler
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    from videodit import CausalVideoVAE, VideoDiT, VideoDiTPipeline

    seed_everything()
    words = [
        "a", "red", "blue", "tiny", "ball", "cone", "cube", "ring", "rings", "two", "and", "bounces", "on", "the",
        "grass", "slide", "to", "left", "at", "night", "x",
    ]  # fmt: skip
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *words])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_max_length=32, known_words=words,
    )  # fmt: skip
    text_config = T5Config(
        vocab_size=len(vocabulary), d_model=32, d_kv=8, d_ff=64, num_heads=4, num_layers=1,
        feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    transformer = VideoDiT(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, text_dim=32, ffn_dim=64, num_layers=2
    )
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    vae = CausalVideoVAE(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[True, True],
        is_residual=True, patch_size=2, in_channels=12, out_channels=12,
    )  # fmt: skip
    pipe = VideoDiTPipeline(
        tokenizer=tokenizer,
        text_encoder=T5EncoderModel(text_config).eval(),
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=2.0),
        height=32,
        width=32,
        num_frames=17,
        fps=16.0,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def randomized() -> Callable[[M], M]:
    """Redraws all parameters of a network, so that no wrong layer hides behind a 0 or a 1."""
    from videodit.families.parity import randomize

    return randomize


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that a scan's workers were asked about."""
    from videodit.datasets.clips.scanning import run_task
    from videodit.datasets.clips.scanning.worker_pool import Job, JobResult

    names: list[str] = []
    real = run_task.run_jobs

    def ask(jobs: Sequence[Job], *, workers: int = 1) -> Generator[tuple[int, JobResult], None, None]:
        names.extend(Path(job.request["path"]).name for job in jobs)
        yield from real(jobs, workers=workers)

    monkeypatch.setattr(run_task, "run_jobs", ask)
    return names


@pytest.fixture(scope="session")
def deviation() -> Callable[[Tensor, Tensor], float]:
    """The largest difference between two tensors of one shape, relative to the largest value of the second."""

    def measure(actual: Tensor, expected: Tensor) -> float:
        assert actual.shape == expected.shape
        assert expected.isfinite().all()
        return float((actual - expected).abs().max() / expected.abs().max())

    return measure


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. Its driver has an event loop of its own, which ends with each file of tests."""
    from browser import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for all tests of the page: `mini`, whose clips here take a moment."""
    from browser import SMALL_CLIPS
    from servers import server_process

    with server_process(tmp_path_factory.mktemp("page") / "data", *SMALL_CLIPS) as server:
        server.wait_ready()
        yield server
