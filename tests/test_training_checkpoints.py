"""Training state and checkpoints: exact, atomic, and the same for any number of processes.

The tiny model and its training are those of training_worker, which also runs in processes of its own.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from training_worker import Run, make_model, make_run, same, whole

from videodit.families.stored import DTYPES
from videodit.training.checkpoints import CheckpointStore
from videodit.training.collectives import agreed, gather_json
from videodit.training.optimizers import make_optimizer
from videodit.training.shards import Piece, PieceReader, Window, checksum, write_tensors
from videodit.training.state import Ema, TrainingState, stable_name, trainable_parameters

WORKER = Path(__file__).with_name("training_worker.py")


def small(value: float = 1.0) -> dict[str, Tensor]:
    return {"model.w": torch.full((4, 3), value), "optimizer.w.step": torch.tensor(value)}


def start(folder: Path, *command: str) -> None:
    """Run Python in a folder of its own: from the root `datasets/` would hide Hugging Face's package."""
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


# ---- the state -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adamw", "adamw8bit"])
def test_a_resumed_run_repeats_the_uninterrupted_one(kind: str, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    with torch.compiler.set_stance("force_eager"):  # torchao compiles its step
        run = make_run(0, kind=kind)
        run.train(1, 2)
        path = store.save(2, run.state.tensors(), {"seed": 0})
        saved = whole(run.state.tensors())
        run.train(3, 4)

        again = make_run(1, kind=kind)
        again.state.load(store.open(path))
        assert same(whole(again.state.tensors()), saved)
        assert [p.grad for p in again.model.parameters()] == [None] * len(list(again.model.parameters()))
        assert [float(group["lr"]) for group in again.optimizer.param_groups] == pytest.approx([1e-2, 1e-2])
        again.train(3, 4)
    assert again.losses == run.losses[2:]
    assert same(whole(again.state.tensors()), whole(run.state.tensors()))


def test_eight_bit_moments_are_stored_as_codes(tmp_path: Path) -> None:
    with torch.compiler.set_stance("force_eager"):
        run = make_run(0, kind="adamw8bit")
        run.train(1)
    path = CheckpointStore(tmp_path, keep=1).save(1, run.state.tensors(), {})
    stored = load_file(path / "optimizer.safetensors")
    name = "optimizer.time_proj.weight.exp_avg"
    moment = run.optimizer.state[run.model.time_proj.weight]["exp_avg"]
    assert stored[f"{name}.codes"].dtype == torch.uint8
    assert torch.equal(stored[f"{name}.codes"], moment.codes)
    assert torch.equal(stored[f"{name}.scale"], moment.scale)
    assert torch.equal(stored[f"{name}.qmap"], moment.qmap)


def test_the_first_checkpoint_clears_the_optimizer(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    run = make_run(0)
    before = whole(run.state.tensors())
    path = store.save(0, run.state.tensors(), {})
    run.train(1, 2)
    assert any(name.startswith("optimizer.") for name in run.state.tensors())
    run.state.load(store.open(path))
    assert same(whole(run.state.tensors()), before)
    assert not run.optimizer.state
    first = list(run.losses)
    run.train(1, 2)
    assert run.losses == first * 2


def test_parameters_without_a_gradient_have_no_state(tmp_path: Path) -> None:
    def make() -> tuple[nn.Module, TrainingState]:
        model = nn.ModuleDict({"used": nn.Linear(3, 3), "unused": nn.Linear(3, 3)})
        return model, TrainingState(model, make_optimizer("adamw", model.named_parameters(), lr=0.1))

    model, state = make()
    model["used"](torch.ones(1, 3)).sum().backward()
    state.optimizers[0].step()
    store = CheckpointStore(tmp_path, keep=1)
    path = store.save(1, state.tensors(), {})
    _, again = make()
    again.load(store.open(path))
    assert same(whole(again.tensors()), whole(state.tensors()))
    assert not any("unused" in name for name in again.tensors() if name.startswith("optimizer."))


def test_of_a_lora_only_the_adapters_are_stored() -> None:
    from peft import LoraConfig

    model = make_model(0)
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    optimizer = make_optimizer("adamw", model.named_parameters(), lr=0.1)
    names = set(TrainingState(model, optimizer, Ema(model, decay=0.9)).tensors())
    assert len(names) == 2 * 2 * 4  # parameters and averages; two halves; two attentions in each of two blocks
    assert "model.blocks.0.attn1.to_q.lora_A.default.weight" in names
    assert all("lora_" in name for name in names)


def test_wrappers_do_not_change_names() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = make_model(0)
    names = list(trainable_parameters(model))
    model.blocks[1] = checkpoint_wrapper(model.blocks[1])
    model.blocks[0] = torch.compile(model.blocks[0], backend="eager")
    assert any("_checkpoint_wrapped_module" in name for name, _ in model.named_parameters())
    assert list(trainable_parameters(torch.compile(model, backend="eager"))) == names
    assert stable_name("_orig_mod.module.blocks.0._orig_mod.x") == "blocks.0.x"
    assert stable_name("blocks.module.x") == "blocks.module.x"


def test_refuses_what_it_cannot_store() -> None:
    model, other = make_model(0), nn.Linear(2, 2)
    foreign = TrainingState(model, torch.optim.SGD(other.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="2 of the optimizer's 2 parameters are not the model's"):
        foreign.tensors()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    optimizer.state[other.weight]["count"] = 3
    with pytest.raises(ValueError, match=r"optimizer.weight.count is a int; .* only tensors"):
        TrainingState(other, optimizer).tensors()
    clash = nn.ModuleDict({"module": nn.Linear(2, 2, bias=False)})
    clash.register_parameter("weight", nn.Parameter(torch.zeros(1)))
    with pytest.raises(ValueError, match="two parameters are called 'weight'"):
        trainable_parameters(clash)


# ---- averages ------------------------------------------------------------------------------------


def test_averages_follow_the_formula() -> None:
    model = nn.Linear(3, 2).bfloat16()
    ema = Ema(model, decay=0.5)
    expected = model.weight.detach().float()
    for step in (1, 2, 30):
        with torch.no_grad():
            model.weight.add_(1)
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach().float()
    assert ema.averages["weight"].dtype == torch.float32
    torch.testing.assert_close(ema.averages["weight"], expected)
    assert Ema(model, decay=0.5, warmup=False).decay_at(1) == 0.5


def test_many_averages_are_all_moved() -> None:
    model = nn.ParameterList([nn.Parameter(torch.zeros(2)) for _ in range(150)])
    ema = Ema(model, decay=0.5, warmup=False)
    with torch.no_grad():
        for parameter in model:
            parameter.fill_(1)
    ema.update(1)
    assert all(torch.equal(average, torch.full((2,), 0.5)) for average in ema.averages.values())


def test_swapped_parameters_come_back() -> None:
    model = nn.Linear(3, 2).bfloat16()
    ema = Ema(model, decay=0.9)
    optimizer = make_optimizer("adamw", model.named_parameters(), lr=0.1)
    state = TrainingState(model, optimizer, ema)
    with torch.no_grad():
        model.weight.add_(0.3)
    before = model.weight.detach().clone()
    with ema.swapped():
        assert torch.equal(model.weight, ema.averages["weight"].bfloat16())
        for forbidden in (state.tensors, lambda: ema.update(1), lambda: ema.swapped().__enter__()):
            with pytest.raises(RuntimeError, match="the averages are in the model"):
                forbidden()
    assert torch.equal(model.weight, before)
    with pytest.raises(KeyError, match="broken"), ema.swapped():
        raise KeyError("broken")
    assert torch.equal(model.weight, before)
    ema.update(1)


def test_refuses_bad_averages() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\), got 1.0"):
        Ema(nn.Linear(1, 1), decay=1.0)
    with pytest.raises(ValueError, match="no trainable parameter"):
        Ema(nn.Linear(1, 1).requires_grad_(False), decay=0.5)
    with pytest.raises(ValueError, match="counted from 1; got 0"):
        Ema(nn.Linear(1, 1), decay=0.5).update(0)


# ---- files ---------------------------------------------------------------------------------------


def test_files_are_what_safetensors_reads(tmp_path: Path) -> None:
    tensors = {f"x.{name}": torch.arange(5).to(dtype) for name, dtype in DTYPES.items()}
    tensors |= {"x.none": torch.zeros(0, 3), "x.one": torch.tensor(3.0), "x.turned": torch.randn(4, 6).T}
    size, crc = write_tensors(tmp_path / "x.safetensors", tensors)
    assert same(load_file(tmp_path / "x.safetensors"), {name: t.contiguous() for name, t in tensors.items()})
    assert (size, crc) == ((tmp_path / "x.safetensors").stat().st_size, checksum(tmp_path / "x.safetensors"))
    save_file({"x.y": torch.ones(2)}, tmp_path / "theirs.safetensors")
    with PieceReader(tmp_path, {"x.y": [Piece("theirs.safetensors", Window((0,), (2,)))]}) as reader:
        target = torch.zeros(1)
        reader.read_into("x.y", Window((1,), (1,)), target)
        assert target == 1
        with pytest.raises(ValueError, match=r"holds 1 of the 2 values of x.y"):
            reader.read_into("x.y", Window((1,), (2,)), torch.zeros(2))


def test_windows_are_put_together_from_any_pieces(tmp_path: Path) -> None:
    value = torch.randn(7, 6)
    corners = {"a": ((0, 0), (4, 6)), "b": ((4, 0), (3, 2)), "c": ((4, 2), (3, 4))}
    pieces = []
    for file, (offset, shape) in corners.items():
        window = Window(offset, shape)
        part = value[window.slices_of(window) if file == "a" else Window((0, 0), (7, 6)).slices_of(window)]
        write_tensors(tmp_path / f"{file}.safetensors", {"x": part})
        pieces.append(Piece(f"{file}.safetensors", window))
    with PieceReader(tmp_path, {"x": pieces}) as reader:
        for window in (Window((0, 0), (7, 6)), Window((3, 1), (3, 4)), Window((5, 3), (1, 1)), Window((7, 0), (0, 6))):
            target = torch.full(window.shape, torch.nan)
            reader.read_into("x", window, target)
            assert torch.equal(target, value[Window((0, 0), (7, 6)).slices_of(window)])


def test_what_a_checkpoint_consists_of(tmp_path: Path) -> None:
    about = {"config": {"lr": 1e-4}, "name": "é"}
    path = CheckpointStore(tmp_path / "new" / "folder", keep=1).save(12, small(), about)
    assert path == tmp_path / "new" / "folder" / "step-00000012"
    names = ["checkpoint.json", "model.safetensors", "optimizer.safetensors", "tensors.json"]
    assert sorted(file.name for file in path.iterdir()) == names
    assert torch.equal(load_file(path / "model.safetensors")["model.w"], torch.ones(4, 3))
    target = small(0.0)
    checkpoint = CheckpointStore(path.parent, keep=1).open(path)
    assert (checkpoint.step, checkpoint.world_size, checkpoint.about) == (12, 1, about)
    assert checkpoint.differing(target) == ["model.w", "optimizer.w.step"]
    assert CheckpointStore(path.parent, keep=1).load(path, target) == about
    assert same(target, small())
    assert checkpoint.differing(target) == []


def test_the_newest_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    assert store.latest() is None
    for step in (5, 10, 100_000_000, 20):
        store.save(step, small(step), {})
        assert len(store.all()) <= 2
    # Never the one that was just written, even where others have a higher step.
    assert [path.name for path in store.all()] == ["step-00000020", "step-100000000"]
    assert store.latest() == tmp_path / "step-100000000"
    CheckpointStore(tmp_path, keep=1).save(30, small(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000030"]


def test_the_same_step_is_replaced(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    store.save(1, small(1.0), {"turn": 1})
    path = store.save(1, small(2.0), {"turn": 2})
    target = small(0.0)
    assert store.load(path, target) == {"turn": 2}
    assert same(target, small(2.0))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"model.v": torch.zeros(1)}, "it lacks model.v"),
        ({"model.w": torch.zeros(4, 3)}, "it also holds optimizer.w.step"),
        (small() | {"model.w": torch.zeros(3, 4)}, r"model.w is F32 \[4, 3\] there and F32 \[3, 4\] here"),
        (small() | {"model.w": torch.zeros(4, 3).half()}, r"model.w is F32 \[4, 3\] there and F16 \[4, 3\] here"),
    ],
)
def test_refuses_a_checkpoint_of_something_else(target: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    path = store.save(1, small(), {})
    before = whole(target)
    with pytest.raises(ValueError, match=f"step-00000001 does not fit this run: {message}"):
        store.load(path, target)
    assert same(target, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": -1}, "at least 0, got -1"),
        ({"tensors": {}}, "at least one tensor"),
        ({"tensors": {"../x.w": torch.ones(1)}}, r"lower-case letters and a dot, got '../x.w'"),
        ({"tensors": {"model": torch.ones(1)}}, "got 'model'"),
        ({"tensors": {"model.w": torch.ones(1, dtype=torch.complex64)}}, "model.w is torch.complex64"),
        ({"about": {"x": Path()}}, "must be JSON: .*PosixPath"),
        ({"about": {"x": float("nan")}}, "must be JSON"),
    ],
)
def test_refuses_to_save_nonsense(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        CheckpointStore(tmp_path / "s", keep=1).save(**({"step": 1, "tensors": small(), "about": {}} | arguments))
    assert not (tmp_path / "s").exists()


def cut(path: Path) -> None:
    os.truncate(path / "model.safetensors", 40)


def flip(path: Path) -> None:
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)


def lose(path: Path) -> None:
    (path / "optimizer.safetensors").unlink()


def change_index(path: Path) -> None:
    (path / "tensors.json").write_text((path / "tensors.json").read_text().replace("F32", "F16"))


def change_main(**values: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / "checkpoint.json").write_text(json.dumps(json.loads((path / "checkpoint.json").read_text()) | values))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "is damaged: model.safetensors has 40 bytes, not"),
        (flip, "is damaged: the content of model.safetensors is not what was written"),
        (lose, "is damaged: optimizer.safetensors is missing"),
        (change_index, "is damaged: the content of tensors.json"),
        (lambda path: (path / "checkpoint.json").write_text("{"), "checkpoint.json is not valid JSON"),
        (lambda path: (path / "checkpoint.json").unlink(), "checkpoint.json is missing"),
        (change_main(format=2), "has the format 2; this version reads 1"),
        (change_main(files={"../other.safetensors": {"bytes": 1, "crc32": 1}}), "names files that no checkpoint has"),
        (change_main(files={}), "is damaged: tensors.json names model.safetensors, which checkpoint.json does not"),
        (change_main(files={"model.safetensors": 3}), "lacks something or has it wrong"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_named(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    first, second = (store.save(step, small(float(step)), {}) for step in (1, 2))
    damage(second)
    target = small(0.0)
    with pytest.raises(ValueError, match=message) as caught:
        store.load(second, target)
    assert f"the one before it is {first}: remove {second}" in str(caught.value)
    assert same(target, small(0.0))
    damage(first)
    with pytest.raises(ValueError, match="there is no earlier checkpoint beside it"):
        store.open(first)


def test_resuming_names_one_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run", keep=3)
    with pytest.raises(ValueError, match=r"there is no checkpoint in .*run to resume from"):
        store.resolve_resume("latest")
    first, second = (store.save(step, small(), {}) for step in (1, 2))
    assert store.resolve_resume("latest") == second
    assert store.resolve_resume(second) == second
    with pytest.raises(ValueError, match=r"newer checkpoints stand beside .*step-00000001: step-00000002; move"):
        store.resolve_resume(first)
    other = CheckpointStore(tmp_path / "other", keep=1)
    assert other.resolve_resume(first) == first
    other.save(1, {"model.w": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="other holds checkpoints of its own: step-00000001"):
        other.resolve_resume(first)  # two histories would stand in one folder
    with pytest.raises(ValueError, match=r"is not a checkpoint.*it holds checkpoints, the newest is .*step-00000002"):
        store.resolve_resume(tmp_path / "run")
    with pytest.raises(ValueError, match=r"nothing is not a checkpoint: it has no checkpoint.json"):
        store.resolve_resume(tmp_path / "nothing")


def test_refuses_a_bad_store(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        CheckpointStore(tmp_path, keep=0)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        CheckpointStore(tmp_path / "file", keep=1)


# ---- full disks and kills --------------------------------------------------------------------------


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process grows beyond a size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_room_is_looked_for_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 5, 1_048_600))
    with pytest.raises(OSError, match=r"1,048,628 bytes, 1,048,600 are free .*there is no earlier one") as caught:
        store.save(1, small(), {})  # 13 numbers of 4 bytes, and a mebibyte for the rest
    assert caught.value.errno == errno.ENOSPC
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    path = store.save(1, small(7.0), {})
    big = {"model.a": torch.zeros(10), "optimizer.b": torch.zeros(1 << 16)}
    with largest_file(1 << 16), pytest.raises(OSError, match=r"no room for a checkpoint.*step-00000001 is intact"):
        store.save(2, big, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    target = small(0.0)
    store.load(path, target)
    assert same(target, small(7.0))
    assert store.save(2, big, {}).name == "step-00000002"


def test_other_errors_leave_no_part_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path, keep=1)

    def lost(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lost)
        with pytest.raises(OSError, match="Input/output error"):
            store.save(1, small(), {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_save_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    start(tmp_path, str(WORKER), "kill", str(tmp_path))
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert [moment["killed"] for moment in seen] == [True] * (len(seen) - 1) + [False]
    lefts = {" ".join(moment["left"]) for moment in seen}
    for left in (  # all that can be found was
        ".saving-step-00000001 step-00000001",
        ".replaced-step-00000001 .saving-step-00000001",
        ".replaced-step-00000001 step-00000001",
        ".saving-step-00000002 step-00000001",
        "step-00000001 step-00000002",
        ".removing-step-00000001 step-00000002",
    ):
        assert left in lefts
    for moment in seen:
        assert moment["about"] in ({"at": 1}, {"at": 2})
        assert moment["x"] == [float(moment["about"]["at"])] * 3
        assert not any(name.startswith(".") for name in moment["cleared"])
    assert seen[-1]["left"] == ["step-00000002"]


# ---- several processes -----------------------------------------------------------------------------


class Several:
    """What two processes saw, and what they left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ranks = json.loads((folder / "seen.json").read_text())


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Several:
    folder = tmp_path_factory.mktemp("several")
    run = make_run(5)
    run.train(1, 2, 3)
    CheckpointStore(folder / "single", keep=1).save(3, run.state.tensors(), {})
    save_file(whole(run.state.tensors()), folder / "single.safetensors")
    start(
        folder, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(WORKER), "several",
        str(folder),
    )  # fmt: skip
    return Several(folder)


def one_process() -> Run:
    run = make_run(0)
    run.train(1, 2)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fsdp", "ddp"])
class TestTwoProcesses:
    def test_load_what_they_saved_and_what_one_did(self, kind: str, several: Several) -> None:
        assert [rank["world"] for rank in several.ranks] == [2, 2]
        for rank in several.ranks:
            assert rank[kind]["loaded"]
            assert rank[kind]["resumed"]
            assert rank[kind]["from_single"]
            assert rank[kind]["differing"] == []

    def test_save_what_one_loads(self, kind: str, several: Several) -> None:
        store = CheckpointStore(several.folder / kind, keep=2)
        checkpoint = store.open(store.resolve_resume("latest"))
        assert (checkpoint.world_size, checkpoint.about) == (2, {"by": kind})
        run = make_run(3)
        run.state.load(checkpoint)
        saved = load_file(several.folder / f"{kind}.safetensors")
        assert same(whole(run.state.tensors()), saved)
        alone = whole(one_process().state.tensors())
        assert saved.keys() == alone.keys()
        for name, tensor in saved.items():  # the same training
            torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-4)

    def test_write_their_own_parts(self, kind: str, several: Several) -> None:
        path = CheckpointStore(several.folder / kind, keep=2).latest()
        assert path is not None
        sizes = {file.name: file.stat().st_size for file in path.iterdir() if file.suffix == ".safetensors"}
        if kind == "ddp":
            assert sizes.keys() == {"model.safetensors", "ema.safetensors", "optimizer.safetensors"}
        else:
            names = {
                f"{group}-0000{rank}-of-00002.safetensors" for group in ("model", "ema", "optimizer") for rank in (0, 1)
            }
            assert sizes.keys() == names
            assert sizes["model-00001-of-00002.safetensors"] > 0.3 * sizes["model-00000-of-00002.safetensors"]

    def test_measure_the_same_norm(self, kind: str, several: Several) -> None:
        first, second = (rank[kind]["norms"] for rank in several.ranks)
        assert first == second
        assert first == pytest.approx(one_process().norms + first[2:], rel=1e-4)

    def test_validate_with_averages(self, kind: str, several: Several) -> None:
        assert [rank[kind]["averages"] for rank in several.ranks] == [[True, True, True]] * 2

    def test_fail_together(self, kind: str, several: Several) -> None:
        guilty = 1 if kind == "fsdp" else 0
        for index, rank in enumerate(several.ranks):
            full, broken = rank[kind]["errors"]
            assert full.startswith("OSError: [Errno 28] no room for a checkpoint in")
            assert full.endswith("step-00000002 is intact")
            where = "" if index == guilty else f"RuntimeError on rank {guilty}: "
            assert broken == f"RuntimeError: {where}the device is lost"
        assert [path.name for path in (several.folder / kind).iterdir()] == ["step-00000002"]


@pytest.mark.slow
def test_eight_bits_are_refused_for_split_parameters(several: Several) -> None:
    for rank in several.ranks:
        assert rank["quantized"].startswith("adamw8bit does not work with parameters split over devices")


def test_one_process_agrees_with_itself() -> None:
    assert gather_json({"é": [1]}) == [{"é": [1]}]
    assert agreed(lambda: 3) == 3
    with pytest.raises(KeyError, match="own"):
        agreed(lambda: {}["own"])
