"""What callbacks read and set of a running call, by the names that diffusers' pipelines have for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from videodit.arguments import check_iterable
from videodit.errors import InputError
from videodit.pipelines.request import Inputs, Request
from videodit.ranges import short

if TYPE_CHECKING:
    from videodit.families.sampling import Sampling
    from videodit.transformer import VideoDiT


def callback_inputs(inputs: Inputs, legal: Sequence[str]) -> Sequence[str]:
    """Which tensors a call's callback gets; a ``PipelineCallback`` of diffusers' names its own.

    Args:
        inputs: of the call.
        legal: the names that there are.

    Raises:
        InputError: something else than a function and a list of names, or other names.
    """
    callback, names = inputs.callback_on_step_end, inputs.callback_on_step_end_tensor_inputs
    if callback is not None and not callable(callback):
        raise InputError(f"callback_on_step_end must be a function, got {short(callback)}")
    check_iterable(names, f"a list of names among {', '.join(legal)}", "callback_on_step_end_tensor_inputs")
    if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        names = callback.tensor_inputs
    if unknown := set(names) - set(legal):
        raise InputError(f"callback tensors must be among {list(legal)}, got {sorted(unknown)}")
    return names


class RunState:
    """The part of a pipeline that callbacks see.

    ``_guidance_scale``, ``_interrupt`` and ``_attention_kwargs`` may be set, too, as diffusers' own callbacks do: what
    they say holds from the next step on, up to the end of a window. ``guidance_scale`` is set with a check.
    """

    _guidance_scale: float = 1.0
    _guidance_scale_2: float | None = None
    _began_with: float = 1.0
    _attention_kwargs: dict[str, object] | None = None
    _num_timesteps: int = 0
    _current_timestep: Tensor | None = None
    _interrupt: bool = False
    _call: object = None
    _leads: bool = True
    _front: int = 0
    if TYPE_CHECKING:
        transformer_2: VideoDiT | None

        @property
        def sampling(self) -> Sampling: ...

    def _begin_run(self, call: object, guidance_scale: float, request: Request) -> None:
        """Have what a call asked for, as a callback sees it: at the beginning of the call and of each of its windows.

        Args:
            call: one object a call. A stream makes its windows when they are read, perhaps after another call, which
                leaves its own values behind.
            guidance_scale: of the call's plan.
            request: of the call.
        """
        if self._call is not call:
            self._call, self._interrupt = call, False
        kwargs = request.attention_kwargs
        self._attention_kwargs = None if kwargs is None else dict(kwargs)
        self._guidance_scale_2 = request.guidance_scale_2
        self._guidance_scale = self._began_with = guidance_scale

    @property
    def guidance_scale(self) -> float:
        """Of the running call, by now."""
        return self._guidance_scale

    @guidance_scale.setter
    def guidance_scale(self, value: float) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:
            raise InputError(f"guidance_scale must be a number from 0 to 100, got {value!r}")
        self._guidance_scale = float(value)

    @property
    def _scale_2(self) -> float:
        """The second expert's own scale, or the first one's; a callback that turns guidance off turns both off."""
        above, scale = self.sampling.guided_above, self._guidance_scale
        if self._guidance_scale_2 is None or (scale != self._began_with and scale <= above):
            return self._guidance_scale
        return self._guidance_scale_2

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether two predictions are made a step, by now; of two experts, whether either is guided."""
        scales = [self._guidance_scale, *([self._scale_2] if self.transformer_2 is not None else [])]
        return bool(self.sampling.guided) and max(scales) > self.sampling.guided_above

    @property
    def num_timesteps(self) -> int:
        """Timesteps of the running call, or of the last one."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """The timestep of the running step; ``None`` between calls."""
        return self._current_timestep

    @property
    def begins_clip(self) -> bool:
        """Whether the latents of the running steps begin with a clip's first frame, which causal autoencoders encode
        alone; not so in later windows of a long clip, and in loops."""
        return self._leads

    @property
    def front(self) -> int:
        """Latents of the running steps that are in front of the clip's own and no part of it."""
        return self._front

    @property
    def attention_kwargs(self) -> dict[str, object] | None:
        """What the transformer gets with each call."""
        return self._attention_kwargs

    @property
    def interrupted(self) -> bool:
        """Whether :attr:`interrupt` was called since the call began."""
        return self._interrupt

    @property
    def interrupt(self) -> Interrupt:
        """``pipe.interrupt()`` stops the running call after its current step; what is there by then is decoded and
        returned. Its truth value, as in diffusers, says whether that was done."""
        return Interrupt(self)


class Interrupt:
    """See :attr:`RunState.interrupt`."""

    def __init__(self, run: RunState) -> None:
        self._run = run

    def __call__(self) -> None:
        self._run._interrupt = True

    def __bool__(self) -> bool:
        return self._run._interrupt
