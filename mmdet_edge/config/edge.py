"""Changes of parsed configs: the edge loss for any of mmdet's, and the import that it needs."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Optional, Union

from mmengine.config import Config, ConfigDict

from .types import type_of

EDGE_TWINS = {
    'FCNMaskHead': 'EdgeAgreementMaskHead',
    'HTCMaskHead': 'EdgeAgreementHTCMaskHead',
    'SCNetMaskHead': 'EdgeAgreementSCNetMaskHead',
    'DynamicMaskHead': 'EdgeAgreementDynamicMaskHead',
}
"""mmdet's FCN-like mask heads, and what each becomes."""

_PLAIN_TWINS = {twin: plain for plain, twin in EDGE_TWINS.items()}


def apply_edge_agreement(
    cfg: Config, loss_edge: Optional[dict] = None, stages: Union[str, Sequence[int]] = 'all'
) -> None:
    """Turn the mask heads of a config into Edge Agreement Heads.

    Works for every RoI head of mmdet with an FCN-like mask head, wherever it stands in the model (``model.roi_head``,
    ``model.detector.roi_head``, ...). Afterwards the selected stages have the edge head and all others the plain one,
    whatever the config had before; applied twice, it changes nothing more.

    Args:
        cfg (Config): Changed in place, but not if an error is raised. ``custom_imports`` gets 'mmdet_edge' beside what
            is there, so that the dumped config can be used anywhere.
        loss_edge (dict, optional): Config of the edge loss, by default of type 'EdgeLoss'. Defaults to None: what the
            config says, and without that the setting that this package recommends.
        stages (str | Sequence[int]): Stages of a cascade that get the edge loss: 'all', 'last', or their numbers,
            counted from 0 as in the log (``s0.loss_mask``, ``s1.loss_mask``, ...). Defaults to 'all'.

    Raises:
        TypeError: If ``cfg`` is not a parsed config, or ``loss_edge`` not a dict.
        ValueError: If the model has no mask head, or one that is not FCN-like; if ``stages`` is none of the above, or
            names stages of a model that is no cascade or has fewer.

    Example:
        >>> cfg = Config(dict(model=dict(roi_head=dict(mask_head=dict(type='FCNMaskHead')))))
        >>> apply_edge_agreement(cfg)
        >>> cfg.model.roi_head.mask_head.type
        'EdgeAgreementMaskHead'
    """
    if not isinstance(cfg, Config):
        raise TypeError(
            f'apply_edge_agreement: cfg must be a parsed config, got {type(cfg).__name__}; read a file with '
            'mmengine.Config.fromfile'
        )
    if loss_edge is not None and not isinstance(loss_edge, dict):
        raise TypeError(f'apply_edge_agreement: loss_edge must be a config, dict(type=...), got {loss_edge!r}')
    model = cfg.get('model') or ConfigDict()
    # All checks come before the first change.
    changes = [
        (roi_head, _change_stages(name, roi_head, loss_edge, stages)) for name, roi_head in _roi_heads(model, 'model')
    ]
    if not changes:
        raise ValueError(
            f'apply_edge_agreement: expected a model with a mask head of type {_known()}, got one of type '
            f'{model.get("type")} without any mask_head; it predicts boxes only, or its masks do not come from RoIs'
        )
    for roi_head, mask_head in changes:
        roi_head['mask_head'] = mask_head
    import_mmdet_edge(cfg)


def import_mmdet_edge(cfg: Config) -> None:
    """Let a config import this package, so that its dump works with any training or test script.

    Args:
        cfg (Config): Changed in place: ``custom_imports`` keeps what is there.
    """
    custom_imports = dict(cfg.get('custom_imports') or dict(imports=[], allow_failed_imports=False))
    imports = custom_imports['imports']
    imports = [imports] if isinstance(imports, str) else list(imports)
    if 'mmdet_edge' not in imports:
        cfg.custom_imports = {**custom_imports, 'imports': [*imports, 'mmdet_edge']}


def _roi_heads(node: Any, name: str) -> Iterator[tuple[str, ConfigDict]]:
    """Yield the name and config of whatever has a mask head."""
    if isinstance(node, dict):
        if node.get('mask_head'):
            yield name, node
        for key, value in node.items():
            yield from _roi_heads(value, f'{name}.{key}')
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _roi_heads(value, f'{name}.{index}')


def _change_stages(
    name: str, roi_head: ConfigDict, loss_edge: Optional[dict], stages: Union[str, Sequence[int]]
) -> Union[ConfigDict, list]:
    """Return the mask head, or the list with one for each stage, that a RoI head gets."""
    given = roi_head['mask_head']
    is_list = isinstance(given, (list, tuple))
    # SCNet's boxes are a cascade, its masks are not.
    only_scnet = type_of(roi_head)[1] == 'SCNetRoIHead'
    num_stages = 1 if only_scnet else roi_head.get('num_stages', 1)
    heads = list(given) if is_list else [given] * num_stages
    for head in heads:
        _check_head(f'{name}.mask_head', type_of(head)[1], only_scnet)
    selected = _select_stages(f'{name}.mask_head', stages, len(heads))
    changed = [_change_head(head, loss_edge, stage in selected) for stage, head in enumerate(heads)]
    # mmdet builds one dict for all stages.
    return changed if is_list or len(selected) < len(heads) else changed[0]


def _check_head(name: str, type_name: str, only_scnet: bool) -> None:
    """Check that a mask head has a twin that works where it stands."""
    expected = f'apply_edge_agreement: {name} must be of type {_known()}, got {type_name}'
    if type_name == 'CoarseMaskHead':
        raise ValueError(
            f'{expected}; its map of 7x7 pixels is too coarse for edge filters, whose 3x3 pixels would span half an '
            'object, and PointRend refines the boundary elsewhere, point by point'
        )
    if type_name not in EDGE_TWINS and type_name not in _PLAIN_TWINS:
        raise ValueError(
            f'{expected}; it does not predict one mask for each RoI, or is not a head of mmdet (for one of your own, '
            'derived from FCNMaskHead, derive an edge head with EdgeAgreementMixin)'
        )
    if only_scnet and type_name not in ('SCNetMaskHead', 'EdgeAgreementSCNetMaskHead'):
        raise ValueError(
            f'apply_edge_agreement: {name} must be of type SCNetMaskHead, got {type_name}; SCNetRoIHead drops the edge '
            'loss of any other'
        )


def _select_stages(name: str, stages: Union[str, Sequence[int]], num_stages: int) -> set[int]:
    """Return the numbers of the stages to change."""
    if stages == 'all':
        return set(range(num_stages))
    numbers = [num_stages - 1] if stages == 'last' else list(stages) if isinstance(stages, (list, tuple)) else []
    if not numbers or not all(type(number) is int for number in numbers):
        raise ValueError(
            "apply_edge_agreement: stages must be 'all', 'last' or a list of numbers counted from 0, such as [1, 2], "
            f'got {stages!r}'
        )
    if num_stages == 1:
        raise ValueError(
            f"apply_edge_agreement: stages must be 'all' for {name}, which is one head and no cascade of them, got "
            f'{stages!r}'
        )
    if min(numbers) < 0 or max(numbers) >= num_stages:
        raise ValueError(
            f'apply_edge_agreement: stages of {name} must be from 0 to {num_stages - 1}, got {stages!r}; like those in '
            'the log they are counted from 0'
        )
    return set(numbers)


def _change_head(head: ConfigDict, loss_edge: Optional[dict], edge: bool) -> ConfigDict:
    """Return a copy of a mask head's config as its edge twin, or as its plain twin."""
    head = copy.deepcopy(head)
    scope, name = type_of(head)
    if edge:
        head['type'] = scope + EDGE_TWINS.get(name, name)
        if loss_edge is not None:
            head['loss_edge'] = copy.deepcopy(loss_edge)
    else:
        head['type'] = scope + _PLAIN_TWINS.get(name, name)
        head.pop('loss_edge', None)
    return head


def _known() -> str:
    return ', '.join(EDGE_TWINS)
