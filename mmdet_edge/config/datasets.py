"""Reading the data sets and metrics of a config."""

from collections.abc import Iterator

from mmengine.config import Config, ConfigDict

from mmdet_edge.config.types import as_list, type_of


def inner_datasets(dataset: ConfigDict | None) -> Iterator[ConfigDict]:
    """Yield the data sets that read files, inside wrappers such as RepeatDataset and ConcatDataset."""
    if not dataset:
        return
    if 'dataset' not in dataset and 'datasets' not in dataset:
        yield dataset
    for inner in [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets') or []:
        yield from inner_datasets(inner)


def datasets_of(cfg: Config, split: str) -> list[ConfigDict]:
    """Return the configs of the data sets of a split, 'train', 'val' or 'test', that read files."""
    return list(inner_datasets((cfg.get(f'{split}_dataloader') or {}).get('dataset')))


def loading_step(dataset: ConfigDict, name: str) -> ConfigDict | None:
    """Return the first step of a data set's pipeline whose type ends in a name, such as 'LoadAnnotations'."""
    return next((step for step in dataset.get('pipeline') or [] if type_of(step)[1].endswith(name)), None)


def loads_masks(dataset: ConfigDict) -> bool | None:
    """Return whether the pipeline of a data set loads masks; None if it loads no annotations."""
    loads = [step for step in dataset.get('pipeline') or [] if type_of(step)[1].endswith('LoadAnnotations')]
    return any(step.get('with_mask') for step in loads) if loads else None


def evaluators_of(cfg: Config, split: str) -> list[ConfigDict]:
    """Return the configs of the metrics of a split, 'val' or 'test'."""
    evaluators = cfg.get(f'{split}_evaluator')
    if isinstance(evaluators, dict) and 'metrics' in evaluators:
        evaluators = evaluators['metrics']
    return as_list(evaluators)
