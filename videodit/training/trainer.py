"""The training loop: from a cache of latents to a LoRA or a fine-tuned model, on one device or many.

accelerate does the devices. What is trained on, and everything random about it, is a function of the seed and the
step (:mod:`videodit.training.sampler`, :mod:`videodit.training.data`), so a resumed run repeats an uninterrupted one
to the last bit, and the same number of micro-batches in a step gives the same losses on any number of devices.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

import videodit
from videodit.adapters import save_lora
from videodit.datasets.clips.latents.buckets import Bucket
from videodit.datasets.clips.latents.latent_cache import CachedSample
from videodit.errors import InputError, ModelError, Stopped
from videodit.files import write_whole
from videodit.training.card import model_spec, push_to_hub, write_card
from videodit.training.checkpoints import Checkpoint, CheckpointStore
from videodit.training.checks import check_devices
from videodit.training.config import ControlTraining, TrainingConfig, Validation, differences
from videodit.training.controlled import ControlledTransformer, export_branch, make_branch
from videodit.training.data import Collator, MicroBatch, TrainingBatches, make_loader, micro_batch_sizes
from videodit.training.flops import matmul_peak, training_flops, without_data
from videodit.training.folder import BRANCH_FOLDER, LORA_FILE, MODEL_FOLDER, claim_output, free_name, note_result
from videodit.training.inputs import Inputs
from videodit.training.log import LOG, Display, PlainDisplay, RunLog, read_log
from videodit.training.meter import Meter, peak_memory
from videodit.training.model import (
    attention_balance,
    encode_prompts,
    expert_name,
    export_full,
    load_pipeline,
    make_trainable,
    set_checkpointing,
)
from videodit.training.objective import Diffusion
from videodit.training.optimizers import clip_grad_norm, lr_factor, make_optimizer, set_lr
from videodit.training.sampler import keyed
from videodit.training.signals import StopSignals
from videodit.training.state import Ema, TrainingState, trainable_parameters
from videodit.training.validation import beside_prompts, held_out_loss, make_clips
from videodit.transformer import VideoDiT

CONFIG = "config.yaml"
REHEARSAL_STEPS = 2
"""Of the sampler, in the clip that is made before training starts."""


class Trainer:
    """Fine-tunes a model as a config says.

    Args:
        config: of the run.
        resume: ``"latest"``, a checkpoint's folder, or ``None`` for a new run.
        display: where the user sees what goes on; ``None`` for lines on stderr.

    Attributes:
        written: names, in the output folder, of what the run leaves for others; none before its end.

    Raises:
        InputError: a cache, model, tracker or output folder that does not fit, or a checkpoint that the config may not
            go on from (each difference is named). Nothing was trained or written then.
    """

    def __init__(self, config: TrainingConfig, *, resume: str | None = None, display: Display | None = None) -> None:
        self.display = PlainDisplay() if display is None else display
        self.display.stage("reading the cache")
        self.inputs = Inputs.checked(config)
        self.config = config = self.inputs.config
        self.cache, self.held, self.images = self.inputs.cache, self.inputs.held, self.inputs.images
        self.model_hash, self.data_hash = self.inputs.model_hash, self.inputs.data_hash
        precision, tracker = ("bf16" if config.train.precision == "bf16" else "no"), self.inputs.tracker
        self.accelerator = Accelerator(mixed_precision=precision, log_with=tracker, project_dir=str(config.output))
        check_devices(self.accelerator)
        self.dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
        self.per_step = config.train.accumulation * self.accelerator.num_processes
        self.store = CheckpointStore(config.output / "checkpoints", keep=config.checkpoints.keep)
        self.store.clear_leftovers()
        self.checkpoint = self._find_checkpoint(resume)
        self.step = self.first_step = 0
        self.signals = StopSignals(self._promise_to_stop)
        self.strips: Tensor | None = None
        self.written: list[str] = []
        self._prepare(self.inputs.kept)
        if self.checkpoint is not None:
            self.state.load(self.checkpoint)
            self.step = self.first_step = self.checkpoint.step
        if self.accelerator.is_main_process:
            claim_output(config.output)
        self.log = RunLog(self.accelerator, config, step=self.step, display=self.display)
        for text in (*self.inputs.notices, *self._summary()):
            self.log.say(text)

    # ---- before the first step -------------------------------------------------------------------

    def _find_checkpoint(self, resume: str | None) -> Checkpoint | None:
        """The checkpoint to go on from, found whole and of this very run."""
        latest = self.store.latest()
        if resume is None and latest is not None:
            raise InputError(
                f"{str(self.config.output)!r} holds checkpoints of an earlier run: --resume latest goes on from "
                "there, output=… names another folder"
            )
        if resume is None or (resume == "latest" and latest is None):
            return None
        checkpoint = self.store.open(self.store.resolve_resume(resume))
        about, steps = checkpoint.about, self.config.train.steps
        found = differences(about["config"], self.config)
        now = {"data_hash": self.data_hash, "model_hash": self.model_hash, "micro_batches": self.per_step}
        found += [f"{name}: {about[name]!r} became {value!r}" for name, value in now.items() if about[name] != value]
        if found:
            raise InputError(f"{checkpoint.path.name} was made by a run that differs: {'; '.join(found)}")
        if checkpoint.step > steps:
            raise InputError(f"train.steps is {steps}, and {checkpoint.path.name} is beyond that")
        return checkpoint

    def _prepare(self, kept: list[CachedSample]) -> None:
        """Load the model, make the batches and hand what is trained to accelerate."""
        config, train, accelerator = self.config, self.config.train, self.accelerator
        self.display.stage("loading the model")
        sharded = accelerator.is_fsdp2  # which wants one dtype for all
        trained = torch.float32 if config.method.kind == "full" or sharded else self.dtype
        self.pipe = load_pipeline(config, frozen_dtype=self.dtype, trained_dtype=trained)
        name = expert_name(config.method)
        transformer = getattr(self.pipe, name)
        self.diffusion = Diffusion.of(self.pipe, config.noise, expert=config.method.expert, fps=self.cache.info.fps)
        if config.references is not None:
            self.diffusion = replace(self.diffusion, layout=config.references.layout)
        networks, trainee = [transformer], transformer
        if config.control is None:
            pictures = self.pipe.spec.takes_pictures
            make_trainable(transformer, config.method, seed=keyed(train.seed, "adapters"), pictures=pictures)
        else:
            networks, trainee = self._controlled(transformer, config.control, sharded)
        for network in networks:
            set_checkpointing(network, train.checkpointing)
        micro = micro_batch_sizes(kept, train.batch_size, balance=attention_balance(transformer))
        collator = self._collator(
            caption_dropout=config.data.caption_dropout,
            first_frame=config.noise.first_frame,
            control_dropout=0.0 if config.control is None else config.control.dropout,
            reference_dropout=0.0 if config.references is None else config.references.dropout,
        )
        self.batches = TrainingBatches(kept, collator, micro, per_step=self.per_step, seed=train.seed)
        self.flops: dict[Bucket, int] = {}
        self.shapes = without_data(transformer)  # before it is sharded
        if config.validation.prompts:
            self.display.stage("encoding the prompts of the validation")
            encode_prompts(self.pipe, config.validation.prompts, accelerator.device)
        if train.compile:
            for network in networks:
                network.compile_repeated_blocks(dynamic=True)
        if not sharded:
            trainee.to(accelerator.device)  # before the optimizer, which works otherwise on a GPU
        trainee.train()
        self.model, self.optimizer = accelerator.prepare(trainee, self._make_optimizer(trainee))
        self.trained = accelerator.unwrap_model(self.model)
        self.transformer = self.trained if config.control is None else self.trained.transformer
        self.pipe.register_modules(**{name: self.transformer})
        if config.validation.controls:
            self.pipe.hold_branch("trained", self.trained.branch, second=config.method.expert == "low")
        if config.validation.prompts:
            for part in (self.pipe.vae, self.pipe.image_encoder, self.pipe.transformer, self.pipe.transformer_2):
                if part is not None:
                    part.to(accelerator.device)
        self.ema = None if train.ema_decay is None else Ema(self.trained, decay=train.ema_decay)
        self.state = TrainingState(self.trained, self.optimizer.optimizer, self.ema)

    def _controlled(
        self, transformer: VideoDiT, control: ControlTraining, sharded: bool
    ) -> tuple[list[VideoDiT], nn.Module]:
        """The base and its branch, and both as one module.

        Raises:
            InputError: a model that is to be sharded.
        """
        if sharded:
            raise InputError("method.kind=control trains few weights beside a frozen model: use DDP instead of FSDP")
        stride, seed = self.cache.info.stride, keyed(self.config.train.seed, "branch")
        branch = make_branch(transformer, control, stride, base_hash=self.model_hash, seed=seed)
        return [transformer, cast(VideoDiT, branch)], ControlledTransformer(transformer, branch)

    def _collator(self, **shares: float) -> Collator:
        """What reads the samples and draws so large shares of what is dropped or given."""
        kinds = () if self.config.control is None else self.config.control.kinds
        return Collator(
            self.cache,
            seed=self.config.train.seed,
            controls=self.inputs.controls,
            kinds=kinds,
            references=self.inputs.references,
            **shares,
        )

    def _make_optimizer(self, trained: nn.Module) -> torch.optim.Optimizer:
        train = self.config.train
        return make_optimizer(
            train.optimizer,
            trained.named_parameters(),
            lr=train.learning_rate,
            betas=train.betas,
            eps=train.eps,
            weight_decay=train.weight_decay,
        )

    def _flops_of(self, bucket: Bucket) -> int:
        """Model FLOPs of a training step for one sample of a bucket, counted when the first step takes it: counting is
        a second's work for each. Nobody but the first process tells them."""
        if not self.accelerator.is_main_process:
            return 0
        if bucket not in self.flops:
            text_tokens = max(sample.text_tokens for sample in self.batches.by_bucket[bucket])
            latents = self.cache.info.geometry.latent_size(*bucket)
            seen = None if self.config.references is None else self.config.references.latents_of(latents)
            self.flops[bucket] = training_flops(self.shapes, latents, text_tokens=text_tokens, reference=seen)
        return self.flops[bucket]

    def _summary(self) -> Iterator[str]:
        trainable = sum(p.numel() for p in self.trained.parameters() if p.requires_grad)
        total = sum(p.numel() for p in self.trained.parameters())
        config, accelerator = self.config, self.accelerator
        yield (
            f"{config.method.kind} fine-tuning of {config.model}: {trainable / 1e6:.2f} M of {total / 1e6:.2f} M "
            f"parameters, {accelerator.num_processes} x {accelerator.device.type}, "
            f"{config.train.precision}, seed {config.train.seed}"
        )
        for bucket, same in self.batches.by_bucket.items():
            size = self.batches.micro[bucket]
            yield f"  {bucket}: samples {len(same)} of {same[0].tokens} tokens, {size} x {self.per_step} in a step"
        yield f"going on from step {self.step}" if self.step else "starting at step 0"

    # ---- the run ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Train, validate and export.

        Raises:
            Stopped: SIGTERM, SIGINT or SIGHUP came, and the state was saved.
            ModelError: the loss is no number any more.
            OSError: the disk is full, or another error of the system; the last checkpoint is whole.
        """
        config = self.config
        held = contextlib.ExitStack()
        held.enter_context(self.signals)
        held.enter_context(config.limits_held())
        try:
            if self.accelerator.is_main_process:
                config.output.mkdir(parents=True, exist_ok=True)
                write_whole(config.output / CONFIG, config.to_yaml().encode())
            if self.step < config.train.steps and config.train.rehearse:
                self._rehearse()
            if self._is_validated(self.step):  # after a resume again: it may have been cut short
                self._validate()
            if self.step < config.train.steps:
                self._train()
            self._export()
        finally:
            self.accelerator.end_training()
            held.close()

    def _rehearse(self) -> None:
        """Do once what the run will do, so that what fails later fails now; the state is put back afterwards."""
        self.display.stage("rehearsal: checkpoint, step, validation")
        started, scratch = time.perf_counter(), self.config.output / ".rehearsal"
        try:
            # Not among the run's own: one that fails here has trained nothing that is worth going on from.
            store = CheckpointStore(scratch / "checkpoints", keep=1)
            checkpoint = self.checkpoint or store.open(self._save(store))
            if differing := checkpoint.differing(self.state.tensors()):
                raise ModelError(f"rehearsal: {differing[0]} was read back from {checkpoint.path} as something else")
            batch = self.batches.largest(self.accelerator.process_index)
            count = min(2, self.config.train.accumulation)
            loss, _ = self._forward_backward([batch] * count, count=count, step=self.step)
            self._update()
            loss = self.accelerator.reduce(loss, reduction="mean")  # all stop, or none
            if not torch.isfinite(loss):
                raise ModelError(f"rehearsal: the loss of the first batch is {loss.item()}; nothing was trained")
            with self._averaged():
                self._held_out(self.held[:1])
                settings = self.config.validation
                few = {"prompts": settings.prompts[:1], "steps": REHEARSAL_STEPS}
                self._make_clips(settings.model_copy(update=few), scratch)
            self.state.load(checkpoint)
            self.accelerator.wait_for_everyone()
        finally:
            if self.accelerator.is_main_process:
                shutil.rmtree(scratch, ignore_errors=True)
        seconds = time.perf_counter() - started
        self.log.say(f"rehearsal: done in {seconds:.1f} s, peak memory {peak_memory(self.accelerator.device):.2f} GB")

    def _train(self) -> None:
        config, accelerator = self.config, self.accelerator
        loader = iter(
            make_loader(
                self.batches,
                first_step=self.step,
                last_step=config.train.steps,
                rank=accelerator.process_index,
                world=accelerator.num_processes,
                workers=config.data.workers,
                pin=accelerator.device.type == "cuda",
            )
        )
        self.display.stage("measuring the device")
        meter = Meter(accelerator, peak=matmul_peak(accelerator.device, self.dtype))
        self.display.stage("training", config.train.steps, done=self.step)
        started = time.perf_counter()
        self.log.started = time.monotonic()  # from here on, what is left can be foretold
        while self.step < config.train.steps:
            self._set_lr()
            batches = self._taken(loader, meter)
            loss, batch = self._forward_backward(batches, count=config.train.accumulation, step=self.step)
            norm = self._update()
            if self.step == self.first_step and config.tracking.every > 1:
                taken = time.perf_counter() - started
                self.log.say(f"the first step took {taken:.1f} s; a line comes every {config.tracking.every} steps")
            self._count(meter, loss, norm, batch)
            self.step += 1
            self.display.step(self.step)
            last, stop = self.step == config.train.steps, self._stop()
            save = last or stop or self.step % config.checkpoints.every == 0
            if save or self.step % config.tracking.every == 0:  # before a checkpoint, or a resume would leave a gap
                self._write_line(meter)
            with meter.paused():
                if save:
                    self._save(self.store)
                if stop:
                    self._end(stop, f"stopped at step {self.step}, saved in {self.store.folder}")
                if self._is_validated(self.step):
                    self._validate()

    def _taken(self, loader: Iterator[MicroBatch], meter: Meter) -> Iterator[MicroBatch]:
        """The micro-batches of one step."""
        for _ in range(self.config.train.accumulation):
            with meter.waiting():
                batch = next(loader)
            yield batch

    def _forward_backward(self, batches: Iterable[MicroBatch], *, count: int, step: int) -> tuple[Tensor, MicroBatch]:
        """Gradients of so many micro-batches of this process; their mean loss, and the last of them."""
        accelerator = self.accelerator
        losses: list[Tensor] = []
        for turn, batch in enumerate(batches):
            number = turn * accelerator.num_processes + accelerator.process_index
            torch.manual_seed(keyed(self.config.train.seed, "forward", step, number))  # what an adapter drops
            batch = batch.to(accelerator.device)
            waits = contextlib.nullcontext() if turn == count - 1 else accelerator.no_sync(self.model)
            with waits:
                with accelerator.autocast():
                    loss = self.diffusion.losses(self.model, batch, dtype=self.dtype).mean()
                accelerator.backward(loss / count)
            losses.append(loss.detach())
        return torch.stack(losses).mean(), batch

    def _update(self) -> Tensor:
        """Clip and apply the gradients; the norm that they had."""
        trainable = [p for p in self.trained.parameters() if p.requires_grad]
        norm = clip_grad_norm(trainable, self.config.train.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.step + 1)
        return norm

    def _set_lr(self) -> None:
        train = self.config.train
        factor = lr_factor(self.step, schedule=train.schedule, warmup_steps=train.warmup_steps, total_steps=train.steps)
        set_lr(self.optimizer, train.learning_rate * factor)

    # ---- what is measured ------------------------------------------------------------------------

    def _count(self, meter: Meter, loss: Tensor, norm: Tensor, batch: MicroBatch) -> None:
        samples, bucket = len(batch) * self.per_step, self.batches.sampler.place(self.step)[0]
        tokens = self.batches.by_bucket[bucket][0].tokens
        with meter.paused():
            flops = self._flops_of(bucket)
        meter.count(loss, norm, samples=samples, tokens=samples * tokens, flops=samples * flops)

    def _write_line(self, meter: Meter) -> None:
        """Write a line of the log: means and rates since the last one, over all processes."""
        row = meter.flush()
        for name, values in (("loss", row["losses"]), ("norm of the gradients", row.pop("norms"))):
            bad = next((n for n, value in enumerate(values) if not math.isfinite(value)), None)
            if bad is not None:
                step = self.step - len(values) + bad + 1
                raise ModelError(
                    f"the {name} became {values[bad]} in step {step}; the last checkpoint is {self._last()}"
                )
        lr = float(self.optimizer.param_groups[0]["lr"])
        self.log.write("train", self.step, {"loss": row.pop("loss"), "lr": lr, **row})

    def _last(self) -> str:
        latest = self.store.latest()
        return "none" if latest is None else str(latest)

    def _averaged(self) -> contextlib.AbstractContextManager[object]:
        """The averaged weights in the model, and none of dropout, until it ends."""
        stack = contextlib.ExitStack()
        if self.ema is not None:
            stack.enter_context(self.ema.swapped())
        self.model.eval()
        stack.callback(self.model.train)
        return stack

    def _held_out(self, samples: list[CachedSample]) -> dict[str, float]:
        return held_out_loss(
            self.model,
            self.diffusion,
            self._collator(),
            samples,
            self.config.validation.quantiles,
            accelerator=self.accelerator,
            dtype=self.dtype,
        )

    def _make_clips(self, settings: Validation, folder: Path) -> Tensor | None:
        return make_clips(
            self.pipe,
            settings,
            folder,
            images=self.images,
            beside=beside_prompts(self.config, self.pipe.spec.references),
            accelerator=self.accelerator,
            report=lambda number, count: self.display.stage(f"validation: clip {number} of {count}"),
        )

    def _is_validated(self, step: int) -> bool:
        every = self.config.validation.every
        return step == self.config.train.steps or (every > 0 and step % every == 0)

    def _validate(self) -> None:
        settings, folder = self.config.validation, self.config.output / "validation" / f"step-{self.step:08d}"
        self.display.stage("validation: loss on held-out samples")
        with self._averaged():
            values = self._held_out(self.held[: settings.samples])
            self.strips = self._make_clips(settings, folder)
        if self.strips is not None:
            self.log.show(self.strips, self.step)
        if values:
            self.log.write("validation", self.step, values)
        self.accelerator.wait_for_everyone()
        self.display.stage("training", self.config.train.steps, done=self.step)

    def _export(self) -> None:
        """Write the result and its card; with averaged weights where there are some."""
        self.display.stage("writing the result")
        config, accelerator = self.config, self.accelerator
        with self._averaged():
            trained = self._whole_weights()
        if not accelerator.is_main_process:
            return
        if config.method.kind == "lora":
            common = max(self.batches.by_bucket, key=lambda bucket: len(self.batches.by_bucket[bucket]))
            metadata = model_spec(
                config,
                family=self.transformer.config.family,
                base_hash=self.model_hash,
                size=(common.width, common.height),
            )
            target = config.output / free_name(config.output, LORA_FILE)
            save_lora(self.transformer, target, metadata=metadata, state_dict=trained)
        elif config.method.kind == "control":
            target = config.output / free_name(config.output, BRANCH_FOLDER)
            own = {name.removeprefix("branch."): tensor for name, tensor in trained.items()}
            export_branch(self.trained.branch, own, target, self.dtype)
        else:
            target = config.output / free_name(config.output, MODEL_FOLDER)
            export_full(config.model, expert_name(config.method), trained, target, self.dtype)
        note_result(config.output, target.name)
        rows = read_log(config.output / LOG) if (config.output / LOG).is_file() else []
        card = write_card(
            config,
            samples=self.inputs.kept,
            held=self.held,
            base_hash=self.model_hash,
            rows=rows,
            strips=self.strips,
            result=target.name,
        )
        self.written = [target.name, *card]
        self.log.say(f"wrote {target}, {', '.join(card)}")
        if config.export.push_to_hub is not None:
            self.log.say(f"uploaded: {push_to_hub(config, self.written)}")

    def _whole_weights(self) -> dict[str, Tensor]:
        """What was trained, by name, on the CPU of the first process; all have their part in gathering it."""
        whole = {}
        for name, parameter in trainable_parameters(self.trained).items():
            tensor = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            if self.accelerator.is_main_process:
                whole[name] = tensor.detach().to("cpu", copy=True)
        return whole

    # ---- stopping and going on -------------------------------------------------------------------

    def _save(self, store: CheckpointStore) -> Path:
        about = {
            "config": self.config.model_dump(mode="json"),
            "data_hash": self.data_hash,
            "model_hash": self.model_hash,
            "micro_batches": self.per_step,
            "versions": {name: version(name) for name in ("torch", "diffusers", "accelerate", "peft")}
            | {"videodit": videodit.__version__},
            "random": "every draw is a function of the seed, the sample and the step: there is no state to keep",
        }
        return store.save(self.step, self.state.tensors(), about)

    def _promise_to_stop(self, number: int) -> None:
        """Say at the first signal what happens now.

        Raises:
            Stopped: nothing was trained that is worth waiting for.
        """
        if self.step == self.first_step:
            kept = f"saved in {self.store.folder}" if self.checkpoint is not None else "nothing was trained yet"
            self._end(number, f"stopped at step {self.step}, {kept}")
        if self.accelerator.is_main_process:
            when = "after this step" if self.accelerator.num_processes == 1 else "at the next line of the log"
            self.display.say(f"stopping {when}: what was trained is saved first; the same signal again stops at once")

    def _end(self, stop: int, message: str) -> NoReturn:
        """End with all saved; the first process tells it.

        Raises:
            Stopped: always.
        """
        self.signals.ignore()
        raise Stopped(stop, message if self.accelerator.is_main_process else "")

    def _stop(self) -> int:
        """The signal to stop after this step, or 0; several processes find out at every line of the log."""
        several = self.accelerator.num_processes > 1
        return 0 if several and self.step % self.config.tracking.every else self._signal()

    def _signal(self) -> int:
        """The signal by which any process was asked to stop, or 0; all make the call."""
        if self.accelerator.num_processes == 1:
            return self.signals.number or 0
        numbers = self.accelerator.gather(torch.tensor([self.signals.number or 0], device=self.accelerator.device))
        return int(numbers.max().item())
