"""The tokenizer of a model folder, by which prompts are looked at before any weights load."""

from __future__ import annotations

from dataclasses import replace

from videodit.families.sampling import OWN
from videodit.pipelines.component_classes import class_of
from videodit.pipelines.folders import family_of_index
from videodit.pipelines.loading import load_plain
from videodit.pipelines.spec import ModelFolder
from videodit.prompt_reader import PromptReader


def load_prompt_reader(model: ModelFolder) -> PromptReader:
    """Load the tokenizer that a model's tokens come from.

    Args:
        model: a folder that was checked.

    Raises:
        ModelError: a tokenizer that is damaged or of another library.
    """
    found = family_of_index(model.index, model.path)
    sampling = OWN if found is None else found[1]
    name = sampling.text_component.replace("text_encoder", "tokenizer")
    tokenizer = load_plain(class_of(model.index.get(name), name, model.path), model.path / name)
    length = model.spec.text.max_length
    return PromptReader(tokenizer, sampling.text if length is None else replace(sampling.text, max_length=length))
