"""Edits of parsed configs: the edge loss for any config of mmdet, and the import that it needs."""

import copy
from collections.abc import Sequence

from mmengine.config import Config, ConfigDict

from .types import as_list, type_of, walk

EDGE_TWINS = {
    'FCNMaskHead': 'EdgeAgreementMaskHead',
    'HTCMaskHead': 'EdgeAgreementHTCMaskHead',
    'SCNetMaskHead': 'EdgeAgreementSCNetMaskHead',
    'DynamicMaskHead': 'EdgeAgreementDynamicMaskHead',
}
"""mmdet's FCN-like mask head -> its counterpart with an edge loss."""

EDGE_OPTIONS = ('loss_edge', 'feature_grad_scale', 'edge_feature_grad_scale')
"""The options of these counterparts that mmdet's heads do not have."""

WHOLE_IMAGE_LOSS = dict(type='EdgeLoss', normalize_by='edges', loss_weight=0.5)
"""The edge loss of CondInst, whose masks are of the whole image; chosen in docs/evidence.md, Models without RoIs."""

_CONDINST = 'CondInstMaskHead'
_KNOWN = ', '.join([*EDGE_TWINS, _CONDINST])
_WHOLE_IMAGE = 'for masks of the whole image, make its loss_mask a SumMaskLoss with an EdgeLoss'
_PLAIN_HEADS = {edge: plain for plain, edge in EDGE_TWINS.items()}


def apply_edge_agreement(cfg: Config, loss_edge: dict | None = None, stages: str | Sequence[int] = 'all') -> None:
    """Turn the mask heads of a config into Edge Agreement Heads.

    Works for every RoI head of mmdet with an FCN-like mask head, anywhere in the model (``model.roi_head``,
    ``model.detector.roi_head``, ...). Afterwards the selected stages have the edge head and all others the plain one,
    whatever the config had before; a second call changes nothing.

    CondInst keeps its mask head, whose ``loss_mask`` becomes a ``SumMaskLoss`` of the loss it had and the edge loss.

    Args:
        cfg (Config): Changed in place, but not if an error is raised. 'mmdet_edge' is added to ``custom_imports``, so
            that the dumped config can be used anywhere.
        loss_edge (dict, optional): Config of the edge loss, by default of type 'EdgeLoss'. Defaults to None: that of
            the config, or else the one that this package recommends. CondInst's has ``normalize_by='edges'`` and
            weight 0.5 unless given.
        stages (str | Sequence[int]): Stages of a cascade that get the edge loss: 'all', 'last', or their numbers,
            counted from 0 as in the log (``s0.loss_mask``, ``s1.loss_mask``, ...). Defaults to 'all'.

    Raises:
        TypeError: If ``cfg`` is not a parsed config, or ``loss_edge`` not a dict.
        ValueError: If the model has no mask head, or one that is not FCN-like, or CondInst's without a ``loss_mask``
            or with a ``loss_edge`` of another type than EdgeLoss; if ``stages`` is none of the above, or has numbers
            for a model that is not a cascade or has fewer stages.

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
        (part, _change_mask_head(name, part, loss_edge, stages))
        for name, part in walk(model, 'model')
        if isinstance(part, dict) and part.get('mask_head')
    ]
    if not changes:
        raise ValueError(
            f'apply_edge_agreement: expected a model with a mask head of type {_KNOWN}, got one of type '
            f'{model.get("type")} without any mask_head; it predicts boxes only, or its masks do not come from RoIs '
            f'({_WHOLE_IMAGE})'
        )
    for part, mask_head in changes:
        part['mask_head'] = mask_head
    import_mmdet_edge(cfg)


def import_mmdet_edge(cfg: Config) -> None:
    """Add the import of this package to a config, in place, so that its dump works with any training or test script."""
    custom_imports = dict(cfg.get('custom_imports') or dict(imports=[], allow_failed_imports=False))
    imports = as_list(custom_imports['imports'])
    if 'mmdet_edge' not in imports:
        cfg.custom_imports = {**custom_imports, 'imports': [*imports, 'mmdet_edge']}


def _change_mask_head(
    name: str, part: ConfigDict, loss_edge: dict | None, stages: str | Sequence[int]
) -> ConfigDict | list:
    """Return the new mask head of a RoI head, or of a detector without RoIs."""
    if isinstance(part['mask_head'], dict) and type_of(part['mask_head'])[1] == _CONDINST:
        name = f'{name}.mask_head'
        _select_stages(name, stages, 1)
        return _add_to_loss_mask(name, part['mask_head'], loss_edge)
    return _change_stages(name, part, loss_edge, stages)


def _change_stages(
    name: str, roi_head: ConfigDict, loss_edge: dict | None, stages: str | Sequence[int]
) -> ConfigDict | list:
    """Return the new mask head of a RoI head, or the list with one for each stage."""
    given = roi_head['mask_head']
    is_list = isinstance(given, (list, tuple))
    # SCNet's boxes have stages, its masks do not.
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
    """Check that a mask head has a counterpart that works in its RoI head."""
    expected = f'apply_edge_agreement: {name} must be of type {_KNOWN}, got {type_name}'
    if type_name == 'CoarseMaskHead':
        raise ValueError(
            f'{expected}; its map of 7x7 pixels is too coarse for edge filters, whose 3x3 pixels would span half an '
            'object; PointRend refines the boundary by its own point head'
        )
    if type_name not in EDGE_TWINS and type_name not in _PLAIN_HEADS:
        raise ValueError(
            f'{expected}; it does not predict one mask for each RoI ({_WHOLE_IMAGE}), or is not a head of mmdet (for '
            'one of your own, derived from FCNMaskHead, derive an edge head with EdgeAgreementMixin)'
        )
    if only_scnet and type_name not in ('SCNetMaskHead', 'EdgeAgreementSCNetMaskHead'):
        raise ValueError(
            f'apply_edge_agreement: {name} must be of type SCNetMaskHead, got {type_name}; SCNetRoIHead drops the edge '
            'loss of any other'
        )


def _select_stages(name: str, stages: str | Sequence[int], num_stages: int) -> set[int]:
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
            f"apply_edge_agreement: stages must be 'all' for {name}, which is one head and not a cascade, got "
            f'{stages!r}'
        )
    if min(numbers) < 0 or max(numbers) >= num_stages:
        raise ValueError(
            f'apply_edge_agreement: stages of {name} must be from 0 to {num_stages - 1}, got {stages!r}; like those in '
            'the log they are counted from 0'
        )
    return set(numbers)


def _change_head(head: ConfigDict, loss_edge: dict | None, edge: bool) -> ConfigDict:
    """Return a copy of a mask head's config as the edge head, or as the plain head."""
    head = copy.deepcopy(head)
    scope, name = type_of(head)
    if edge:
        head['type'] = scope + EDGE_TWINS.get(name, name)
        if loss_edge is not None:
            head['loss_edge'] = copy.deepcopy(loss_edge)
    else:
        head['type'] = scope + _PLAIN_HEADS.get(name, name)
        for option in EDGE_OPTIONS:
            head.pop(option, None)
    return head


def _add_to_loss_mask(name: str, head: ConfigDict, loss_edge: dict | None) -> ConfigDict:
    """Return a copy of a mask head's config whose ``loss_mask`` is the sum of its other losses and the edge loss."""
    head = copy.deepcopy(head)
    given = head.get('loss_mask')
    is_sum = isinstance(given, dict) and type_of(given)[1] == 'SumMaskLoss'
    losses = given.get('losses') if is_sum else [given]
    is_list = isinstance(losses, (list, tuple)) and len(losses) > 0
    if not is_list or not all(isinstance(loss, dict) and loss.get('type') for loss in losses):
        raise ValueError(f'apply_edge_agreement: {name} must have a loss_mask, dict(type=...), got {given!r}')
    # Other losses have no normalize_by.
    if loss_edge and type_of({'type': 'EdgeLoss', **loss_edge})[1] != 'EdgeLoss':
        raise ValueError(
            f'apply_edge_agreement: loss_edge of {name} must be of type EdgeLoss, got {loss_edge["type"]!r}; write any '
            'other into the SumMaskLoss of the config'
        )
    scope = type_of(given)[0]
    present = [loss for loss in losses if type_of(loss)[1] == 'EdgeLoss']
    if loss_edge is not None or not present:
        present = [copy.deepcopy({**WHOLE_IMAGE_LOSS, 'type': f'{scope}EdgeLoss', **(loss_edge or {})})]
    others = [loss for loss in losses if type_of(loss)[1] != 'EdgeLoss']
    options = given if is_sum else dict(type=f'{scope}SumMaskLoss')
    head['loss_mask'] = dict(options, losses=[*others, *present])
    return head
