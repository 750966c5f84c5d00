"""Evaluates the mask branch during training."""

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmdet_edge.config.types import as_list
from mmdet_edge.evaluation.mask_branch import NoInstancesError, check_mask_branch, evaluate_mask_branch


@HOOKS.register_module()
class MaskBranchEvalHook(Hook):
    """After each validation, evaluates the mask branch with ground-truth boxes as RoIs.

    Adds 'mask_branch/mIoU', 'mask_branch/boundary_IoU_1px', ... (see
    :func:`mmdet_edge.evaluation.evaluate_mask_branch`) to the metrics of the validation: they are logged with them, and
    ``CheckpointHook(save_best='mask_branch/mIoU')`` finds them.

    Example:
        In a config::

            custom_hooks = [dict(type='MaskBranchEvalHook')]
    """

    # Before the hooks that log and that save the best checkpoint, and while EMAHook still has its weights in place.
    priority = 'ABOVE_NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Check model and data before training: otherwise the first validation would fail.

        Raises:
            ValueError: If the model has no mask branch, or the validation set no masks.
        """
        if runner.val_loop is not None:
            check_mask_branch(self._detector(runner), runner.val_dataloader.dataset[0]['data_samples'])

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Evaluate, and add the values to the log and to ``metrics``.

        Empty ``metrics`` stay empty, unless all hooks that watch metrics watch ours: no box was predicted yet, and
        CheckpointHook skips this validation. Given our values only, it would look for its own and fail, or
        ``save_best='auto'`` would take one of ours for good.
        """
        loader = runner.val_dataloader
        # What CheckpointHook and EarlyStoppingHook look up in the metrics.
        options = (getattr(hook, 'save_best', None) or getattr(hook, 'monitor', None) for hook in runner.hooks)
        watched = [key for option in options for key in as_list(option)]
        try:
            values = evaluate_mask_branch(self._detector(runner), loader, len(loader.dataset))
        except NoInstancesError as error:
            if any(key.startswith('mask_branch/') for key in watched):
                raise
            runner.logger.warning(f'MaskBranchEvalHook: {error}')
            return
        # The same at each validation.
        del values['num_instances']
        add_to_metrics = metrics or all(key.startswith('mask_branch/') for key in watched)
        for name, value in values.items():
            runner.message_hub.update_scalar(f'val/mask_branch/{name}', value)
            if metrics is not None and add_to_metrics:
                metrics[f'mask_branch/{name}'] = value

    def _detector(self, runner: Runner) -> nn.Module:
        return runner.model.module if is_model_wrapper(runner.model) else runner.model
