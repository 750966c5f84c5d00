"""What two runs differ in beside the model: then their values say little about the models."""

from collections.abc import Mapping, Sequence
from typing import Any

from .runs import Run, read_config, read_environment

SECTIONS = (
    'val_dataloader.dataset',
    'val_evaluator',
    'train_dataloader.batch_size',
    'train_dataloader.dataset',
    'train_cfg',
    'param_scheduler',
    'optim_wrapper',
)
"""Parts of a config that decide about a result, beside the model."""

IGNORED = {'_scope_', 'backend', 'backend_args', 'classwise', 'metric', 'outfile_prefix', 'val_begin', 'val_interval'}
"""Options that change no value."""

UNKNOWN = '?'
"""The number of ranks, where there is no text log."""

SHOWN = 5
"""Differences that a note lists."""


def describe_differences(runs: Mapping[str, Sequence[Run]]) -> list[str]:
    """Compare the configs that mmengine dumped, and the number of ranks, with those of the first run.

    ``runs`` has the runs of each variant, the baseline first. Returns a line for each variant that differs in more than
    the model; runs without a config are not compared.
    """
    reference = next(run for found in runs.values() for run in found)
    expected = _options(reference)
    notes = []
    for name, found in runs.items():
        lines: dict[str, None] = {}
        for run in found:
            options = _options(run)
            for key in sorted(set(options) | set(expected)) if options and expected else ():
                ours, theirs = (values.get(key, 'not set') for values in (options, expected))
                if ours != theirs and UNKNOWN not in (ours, theirs):
                    lines[f'{key} is {_short(ours)}, there {_short(theirs)}'] = None
        if lines:
            listed = '; '.join(list(lines)[:SHOWN]) + (f'; and {len(lines) - SHOWN} more' if len(lines) > SHOWN else '')
            notes.append(f'{name} differs from {reference.work_dir} in more than the model: {listed}')
    return notes


def _options(run: Run) -> dict[str, Any]:
    """Return the options of a run that decide about its result, by their place in the config; empty without one."""
    everything = _flatten(read_config(run.work_dir), '')
    options = {place: value for place, value in everything.items() if place.startswith(SECTIONS)}
    if options:
        options['number of ranks'] = read_environment(run.work_dir).get('GPU number', UNKNOWN)
    return options


def _flatten(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, dict):
        items = [(key, item) for key, item in value.items() if key not in IGNORED]
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        items = list(enumerate(value))
    else:
        return {where: value}
    return {place: v for key, item in items for place, v in _flatten(item, f'{where}.{key}'.lstrip('.')).items()}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) < 60 else f'{text[:57]}...'
