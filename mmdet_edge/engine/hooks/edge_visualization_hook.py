"""Figures of the inputs and outputs of the mask head and the edge loss, during training.

Shape letters: k RoIs drawn, N positive RoIs, C channels of the mask head (classes, or 1 if class-agnostic), H and W
mask height and width.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmcv.ops import roi_align
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import HOOKS
from mmdet.structures.bbox import bbox2roi
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from ...models.losses.edge_filters import filter_masks, get_edge_kernels
from ...models.losses.edge_loss import EdgeLoss
from ...models.option_checks import check_integer

CROP_SIZE = 112
"""Height and width of the image crops, in pixels."""


@dataclass
class RoISamples:
    """The RoIs that are drawn, on the CPU.

    Attributes:
        crops (Tensor): The image inside each RoI, stretched to a square, (k, CROP_SIZE, CROP_SIZE, 3), RGB, uint8.
        labels (Tensor): Class of each RoI, (k,).
        targets (Tensor): Target masks, (k, H, W), float32.
        probs (Tensor): Predicted probabilities of that class, (k, H, W), float32.
    """

    crops: Tensor
    labels: Tensor
    targets: Tensor
    probs: Tensor


def choose_rois(sampling_results: list[SamplingResult], num_rois: int) -> list[int]:
    """Return indices into the positive RoIs of all images, at most ``num_rois``.

    The choice is deterministic. It takes the first RoI of every object before the second RoI of any object, and
    alternates between the images.
    """
    keys = []
    for image, sampled in enumerate(sampling_results):
        seen: Counter = Counter()
        ranks: Counter = Counter()
        for ground_truth in sampled.pos_assigned_gt_inds.tolist():
            turn = seen[ground_truth]
            keys.append((turn, ranks[turn], image))
            seen[ground_truth] += 1
            ranks[turn] += 1
    return sorted(range(len(keys)), key=keys.__getitem__)[:num_rois]


def restore_colors(images: Tensor, preprocessor: nn.Module) -> Tensor:
    """Undo the normalisation of images, or of parts of them, by the data preprocessor: (B, 3, height, width).

    Without channel conversion the images are assumed to be BGR, as mmdet loads them. Returns RGB in 0 to 255, float32.
    """
    images = images.float()
    if getattr(preprocessor, '_enable_normalize', False):
        images = images * preprocessor.get_buffer('std') + preprocessor.get_buffer('mean')
    if images.shape[1] == 3 and not getattr(preprocessor, '_channel_conversion', False):
        images = images.flip(1)
    return images.expand(-1, 3, -1, -1).clamp(0, 255)


@torch.no_grad()
def sample_rois(
    inputs: Tensor,
    preprocessor: nn.Module,
    mask_preds: Tensor,
    mask_targets: Tensor,
    sampling_results: list[SamplingResult],
    num_rois: int,
) -> RoISamples | None:
    """Copy at most ``num_rois`` RoIs that are drawn to the CPU; return None if there is no positive RoI.

    ``inputs`` are the images as the network gets them, (B, 3, height, width), and ``preprocessor`` has made them;
    ``mask_preds`` are logits, (N, C, H, W), and ``mask_targets`` are (N, H, W).
    """
    chosen = choose_rois(sampling_results, num_rois)
    if not chosen:
        return None
    labels = torch.cat([sampled.pos_gt_labels for sampled in sampling_results])[chosen]
    rois = bbox2roi([sampled.pos_priors for sampled in sampling_results])[chosen]
    crops = restore_colors(roi_align(inputs.float(), rois.float(), CROP_SIZE), preprocessor)
    channels = torch.zeros_like(labels) if mask_preds.shape[1] == 1 else labels
    logits = mask_preds[chosen][torch.arange(len(chosen), device=channels.device), channels]
    return RoISamples(
        crops=crops.round().byte().permute(0, 2, 3, 1).cpu(),
        labels=labels.cpu(),
        targets=mask_targets[chosen].float().cpu(),
        probs=logits.float().sigmoid().cpu(),
    )


def edge_maps(
    probs: Tensor, targets: Tensor, filters: Sequence[str] = ('sobel',), padding_mode: str = 'zeros'
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the edges of targets and predictions, and the residual between them.

    An edge map is the root of the sum of squares over the kernels, without smoothing. The residual is the same of
    ``probs - targets`` (its square is what an edge loss with exponent 2 averages), with the sign of the difference of
    the two edge maps: positive where the prediction's edge is stronger. All maps, ``probs`` and ``targets`` are
    (k, H, W), of one floating dtype; ``filters`` and ``padding_mode`` are those of :class:`EdgeLoss`.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Edges of the targets, edges of the predictions and residual.
    """
    kernels = get_edge_kernels(filters)
    target_edges, prob_edges, residuals = (
        filter_masks(masks, kernels, padding_mode).square().sum(1).sqrt() for masks in (targets, probs, probs - targets)
    )
    return target_edges, prob_edges, residuals * (prob_edges - target_edges).sign()


def draw_rois(
    samples: RoISamples,
    classes: Sequence[str] | None = None,
    filters: Sequence[str] = ('sobel',),
    padding_mode: str = 'zeros',
    title: str = '',
) -> np.ndarray:
    """Draw one row per RoI: crop, target, prediction, their edges, and the residual of the edges.

    The edges are those of :func:`edge_maps`, whose options it takes; all edge maps of a figure share one scale. Without
    names of ``classes``, these are numbered. Returns the figure, (height, width, 3), RGB, uint8.
    """
    target_edges, prob_edges, residuals = edge_maps(samples.probs, samples.targets, filters, padding_mode)
    limit = max(target_edges.max().item(), 1e-6)

    name = ' + '.join(filters)
    mask_style = dict(cmap='gray', vmin=0, vmax=1)
    edge_style = dict(cmap='magma', vmin=0, vmax=limit)
    residual_style = dict(cmap='RdBu_r', vmin=-limit, vmax=limit)
    columns: list[tuple[str, Tensor, dict]] = [
        ('input', samples.crops, {}),
        ('target mask', samples.targets, mask_style),
        ('predicted\nprobability', samples.probs, mask_style),
        (f'target edges\n({name})', target_edges, edge_style),
        (f'predicted edges\n({name})', prob_edges, edge_style),
        ('residual of the edges\nred: too strong\nblue: too weak', residuals, residual_style),
    ]
    rows = len(samples.labels)
    figure = Figure(figsize=(1.1 + 1.85 * len(columns), 1.1 + 1.75 * rows), dpi=100, layout='constrained')
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for row, label in enumerate(samples.labels.tolist()):
        class_name = classes[label] if classes is not None and label < len(classes) else f'class {label}'
        text = f'{class_name}\nmask IoU {_mask_iou(samples.targets[row], samples.probs[row]):.2f}'
        for axes, (heading, maps, style) in zip(grid[row], columns):
            axes.imshow(maps[row].numpy(), interpolation='nearest', **style)
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(heading, fontsize=10)
        grid[row, 0].set_ylabel(text, fontsize=11, rotation=0, ha='right', va='center', labelpad=8)
    figure.suptitle(title, fontsize=12)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _mask_iou(target: Tensor, prob: Tensor) -> float:
    truth, found = target >= 0.5, prob >= 0.5
    return (truth & found).sum().item() / max((truth | found).sum().item(), 1)


@HOOKS.register_module()
class EdgeVisualizationHook(Hook):
    """Draws positive RoIs of the current batch: input, target, prediction, their edges and the residual.

    At the first iteration of a training run and then every ``interval`` iterations; if a batch has no positive RoI, the
    next one is drawn. The figures go to every backend of the runner's visualizer: image files with ``LocalVisBackend``
    (``vis_data/vis_image/edges_ITERATION.png`` in the work dir), TensorBoard with ``TensorboardVisBackend``.

    Works with mask heads like ``FCNMaskHead``, with an edge loss (whose filters it draws) or without (Sobel), class
    by class or class-agnostic; of several stages (Cascade, HTC) it draws the last one. It does not change the training,
    and only rank 0 of a distributed job draws.

    Args:
        interval (int): Training iterations between figures, at least 1. Defaults to 500.
        num_rois (int): RoIs per figure, at least 1. Defaults to 4.

    Raises:
        TypeError: If an option is not an integer.
        ValueError: If an option is below 1; at the start of a training run, if the model has no such mask head.

    Note:
        :func:`edge_maps` defines the edges and their residual. The RoIs are those that the mask head is trained on,
        ground-truth boxes among them; each is stretched to the square that is the head's input.

    Example:
        In a config::

            custom_hooks = [dict(type='EdgeVisualizationHook', interval=100)]
    """

    def __init__(self, interval: int = 500, num_rois: int = 4) -> None:
        self.interval = check_integer('EdgeVisualizationHook', 'interval', interval, minimum=1)
        self.num_rois = check_integer('EdgeVisualizationHook', 'num_rois', num_rois, minimum=1)
        self._due = False
        self._samples: RoISamples | None = None
        self._patch: Any = None

    def before_train(self, runner: Runner) -> None:
        """Check the model, and draw the first iteration.

        Raises:
            ValueError: If the model has no mask head to draw.
        """
        self._find_mask_head(self._detector(runner))
        self._due = True

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        """Listen to the mask head, if this iteration is due."""
        self._stop_listening()
        self._samples = None
        self._due = self._due or self.every_n_train_iters(runner, self.interval)
        if self._due and is_main_process():
            self._listen(self._detector(runner))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None, outputs: dict | None = None
    ) -> None:
        """Draw the RoIs of this iteration, if there are any."""
        self._stop_listening()
        if self._samples is None:
            return
        samples, self._samples, self._due = self._samples, None, False
        iteration = runner.iter + 1
        head = self._find_mask_head(self._detector(runner))
        edge_loss = next((module for module in head.modules() if isinstance(module, EdgeLoss)), EdgeLoss())
        figure = draw_rois(
            samples,
            classes=runner.train_dataloader.dataset.metainfo.get('classes'),
            filters=edge_loss.filters,
            padding_mode=edge_loss.padding_mode,
            title=f'iteration {iteration}: positive RoIs of the mask head',
        )
        runner.visualizer.add_image('edges', figure, iteration)

    def _listen(self, detector: Any) -> None:
        """Copy RoIs in the detector's next forward pass, which leaves the detector as it was, even if it fails."""
        head = self._find_mask_head(detector)
        loss, loss_and_target = detector.loss, head.loss_and_target

        def listening(inputs: Tensor, data_samples: Any) -> dict:
            def copying(mask_preds: Tensor, sampling_results: list, *args: Any, **kwargs: Any) -> dict:
                results = loss_and_target(mask_preds, sampling_results, *args, **kwargs)
                targets = results['mask_targets']
                self._samples = sample_rois(
                    inputs, detector.data_preprocessor, mask_preds, targets, sampling_results, self.num_rois
                )
                return results

            self._stop_listening()
            with patch.object(head, 'loss_and_target', copying):
                return loss(inputs, data_samples)

        self._patch = patch.object(detector, 'loss', listening)
        self._patch.start()

    def _stop_listening(self) -> None:
        if self._patch is not None:
            self._patch.stop()
        self._patch = None

    def _detector(self, runner: Runner) -> nn.Module:
        return runner.model.module if is_model_wrapper(runner.model) else runner.model

    def _find_mask_head(self, detector: nn.Module) -> Any:
        head = getattr(getattr(detector, 'roi_head', None), 'mask_head', None)
        if isinstance(head, nn.ModuleList):
            head = head[-1]
        if not hasattr(head, 'loss_and_target'):
            raise ValueError(
                'EdgeVisualizationHook: the model must have a RoI head with a mask head that has loss_and_target, as '
                f"Mask R-CNN has; got {type(detector).__name__}. Take the hook out of the config's custom_hooks"
            )
        return head
