"""What the config of a data set says."""

from collections.abc import Iterator
from typing import Optional

from mmengine.config import ConfigDict

from mmdet_edge.config.types import type_of


def inner_datasets(dataset: Optional[ConfigDict]) -> Iterator[ConfigDict]:
    """Yield the data sets that read files, inside wrappers such as RepeatDataset, MultiImageMixDataset, ConcatDataset.

    Args:
        dataset (ConfigDict, optional): Config of a data set; None for none.
    """
    if not dataset:
        return
    if 'dataset' not in dataset and 'datasets' not in dataset:
        yield dataset
    for inner in [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets') or []:
        yield from inner_datasets(inner)


def loads_masks(dataset: ConfigDict) -> Optional[bool]:
    """Tell whether the pipeline of a data set loads masks; None if it loads no annotations.

    Args:
        dataset (ConfigDict): Config of the data set, without wrappers.
    """
    loads = [step for step in dataset.get('pipeline') or [] if type_of(step)[1].endswith('LoadAnnotations')]
    return any(step.get('with_mask') for step in loads) if loads else None
