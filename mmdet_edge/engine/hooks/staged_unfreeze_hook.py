"""Trains a model part by part."""

from collections.abc import Mapping

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ...models.option_checks import check_integer


@HOOKS.register_module()
class StagedUnfreezeHook(Hook):
    """Keeps parts of the model frozen until a given iteration.

    Until then the parameters of a part have no gradient: the optimizer skips them, with neither weight decay nor
    momentum, and the backward pass ends above them. Parts that are not named train from the start; those that the
    model froze when it was built (``frozen_stages``) stay frozen.

    Args:
        unfreeze_at (Mapping[str, int]): For each frozen part, the prefix of its parameters' names ('backbone.layer3')
            and the number of iterations after which it starts to train, at least 1. If several prefixes fit a
            parameter, the longest is used.

    Raises:
        TypeError: If ``unfreeze_at`` is not such a mapping.
        ValueError: If it is empty or an iteration is below 1; at the start of a training run, if no parameter that
            trains has one of the prefixes, or if the model is distributed without ``find_unused_parameters``.

    Note:
        The statistics of batch norm are not parameters: frozen parts should have ``norm_eval=True``, as in mmdet's
        configs.

        In a distributed job, DistributedDataParallel waits for the gradients of all parameters that were trainable
        when it was built, before the hook froze any. With ``find_unused_parameters = True`` in the config it looks for
        them in each iteration; frozen parameters then have no gradient on any rank.

    Example:
        In a config, heads and neck first, ResNet stage 4 (``layer3``) and up next, then all::

            custom_hooks = [
                dict(
                    type='StagedUnfreezeHook',
                    unfreeze_at={'backbone': 120000, 'backbone.layer3': 40000, 'backbone.layer4': 40000},
                )
            ]
            find_unused_parameters = True
    """

    def __init__(self, unfreeze_at: Mapping[str, int]) -> None:
        if not isinstance(unfreeze_at, Mapping) or not all(isinstance(prefix, str) for prefix in unfreeze_at):
            raise TypeError(
                f"StagedUnfreezeHook: unfreeze_at must be a dict such as {{'backbone': 1000}}, got {unfreeze_at!r}"
            )
        if not unfreeze_at:
            raise ValueError('StagedUnfreezeHook: unfreeze_at is empty; name at least one part of the model')
        self.unfreeze_at = {
            prefix: check_integer('StagedUnfreezeHook', f'unfreeze_at[{prefix!r}]', iteration, minimum=1)
            for prefix, iteration in unfreeze_at.items()
        }
        self._parameters: dict[str, list[nn.Parameter]] = {}

    def before_train(self, runner: Runner) -> None:
        """Freeze the parts that do not train yet; a resumed training run continues at its stage.

        Raises:
            ValueError: If no parameter that trains has one of the prefixes, or if the model is distributed without
                ``find_unused_parameters``.
        """
        model = runner.model
        if is_model_wrapper(model):
            if not getattr(model, 'find_unused_parameters', False) or getattr(model, 'static_graph', False):
                raise ValueError(
                    f'StagedUnfreezeHook: {type(model).__name__} must look for unused parameters, since frozen '
                    'ones have no gradient: set find_unused_parameters = True in the config (in its model_wrapper_cfg, '
                    'if it has one), and no static_graph'
                )
            model = model.module
        self._parameters = self._find_parameters(model)
        for prefix, parameters in self._parameters.items():
            due = self.unfreeze_at[prefix] <= runner.iter
            for parameter in parameters:
                parameter.requires_grad_(due)
            state = 'trains' if due else f'is frozen up to iteration {self.unfreeze_at[prefix]}'
            runner.logger.info(f'StagedUnfreezeHook: {prefix} ({len(parameters)} parameters) {state}')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        """Unfreeze the parts that train from this iteration on."""
        for prefix, parameters in self._parameters.items():
            if self.unfreeze_at[prefix] == runner.iter:
                for parameter in parameters:
                    parameter.requires_grad_(True)
                runner.logger.info(f'StagedUnfreezeHook: {prefix} ({len(parameters)} parameters) trains from now on')

    def _find_parameters(self, model: nn.Module) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of each prefix, without those that the model itself has frozen."""
        found: dict[str, list[nn.Parameter]] = {prefix: [] for prefix in self.unfreeze_at}
        names = dict(model.named_parameters())
        for name, parameter in names.items():
            prefixes = [prefix for prefix in found if f'{name}.'.startswith(f'{prefix}.')]
            if prefixes and parameter.requires_grad:
                found[max(prefixes, key=len)].append(parameter)
        for prefix, parameters in found.items():
            if not parameters:
                if any(f'{name}.'.startswith(f'{prefix}.') for name in names):
                    cause = 'has only parameters that the model itself freezes (frozen_stages?) or longer prefixes name'
                else:
                    parts = [name for name, _ in model.named_children()]
                    cause = f'is the prefix of no parameter name; {type(model).__name__} has the parts {parts}'
                raise ValueError(f'StagedUnfreezeHook: {prefix!r} {cause}')
        return found
