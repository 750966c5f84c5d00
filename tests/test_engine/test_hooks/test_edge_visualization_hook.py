import copy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcv import imread
from mmdet.registry import HOOKS, MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.utils import get_installed_path

from mmdet_edge import EdgeLoss, get_config_path
from mmdet_edge.config.edits import override_data_root
from mmdet_edge.datasets import make_shapes_dataset
from mmdet_edge.engine.hooks import EdgeVisualizationHook
from mmdet_edge.engine.hooks.edge_visualization_hook import (
    RoISamples,
    choose_rois,
    draw_rois,
    edge_maps,
    restore_colors,
    sample_rois,
)

MODULE = sys.modules[EdgeVisualizationHook.__module__]
MASK_RCNN = 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
CASCADE = 'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py'
HTC = 'htc/htc_r50_fpn_1x_coco.py'


class Figures:
    """A visualizer that keeps what it gets."""

    def __init__(self):
        self.added = []

    def add_image(self, name, image, step=0):
        self.added.append((name, image, step))


def detector(name=MASK_RCNN, **mask_head):
    """A detector of mmdet, small."""
    register_all_modules()
    cfg = Config.fromfile(f'{get_installed_path("mmdet")}/.mim/configs/{name}').model
    cfg.backbone.update(depth=18, init_cfg=None)
    cfg.neck.in_channels = [64, 128, 256, 512]
    heads = cfg.roi_head.mask_head
    for head in heads if isinstance(heads, list) else [heads]:
        head.update(mask_head)
    return MODELS.build(cfg).train()


def fake_runner(model):
    data = SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=[f'name {i}' for i in range(80)])))
    return SimpleNamespace(model=model, iter=0, train_dataloader=data, visualizer=Figures())


def iterate(hook, runner, num_items=(3, 2), semantic=False):
    """One iteration of a training run, without the optimizer."""
    hook.before_train_iter(runner, 0)
    torch.manual_seed(0)
    np.random.seed(0)
    data = demo_mm_inputs(2, [[3, 96, 96]] * 2, list(num_items), with_mask=True, with_semantic=semantic)
    losses = runner.model(**runner.model.data_preprocessor(data, True), mode='loss')
    hook.after_train_iter(runner, 0)
    runner.iter += 1
    return losses


def is_untouched(model):
    patched = [m for m in model.modules() if {'loss', 'loss_and_target'} & set(vars(m))]
    return not patched and not model._forward_hooks and not model._forward_pre_hooks


def start(model, **options):
    hook, runner = EdgeVisualizationHook(**options), fake_runner(model)
    hook.before_train(runner)
    return hook, runner


@pytest.mark.parametrize('option', ['interval', 'num_rois'])
def test_wrong_options(option):
    for value in (0, -3):
        with pytest.raises(ValueError, match=f'EdgeVisualizationHook: {option} must be at least 1, got {value}'):
            EdgeVisualizationHook(**{option: value})
    for value in (1.5, '4', True, None):
        with pytest.raises(TypeError, match=f'{option} must be an integer, got {value!r}'):
            EdgeVisualizationHook(**{option: value})


def test_registered():
    hook = HOOKS.build(dict(type='mmdet.EdgeVisualizationHook'))
    assert (hook.interval, hook.num_rois) == (500, 4)


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes_dataset(str(folder), num_train=4, num_val=2, size=96)
    return folder


def train(shapes, work_dir, *hooks):
    """Three iterations on synthetic images; the runner, its losses and its figures."""
    cfg = Config.fromfile(get_config_path('mask_rcnn_edge/mask-rcnn_r18_fpn_edge_1xb4-300i_shapes.py'))
    override_data_root(cfg, cfg.data_root, str(shapes))
    cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.train_cfg.max_iters = 3
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.pop('checkpoint')
    cfg.update(work_dir=str(work_dir), custom_hooks=list(hooks), log_level='ERROR', experiment_name=work_dir.name)
    # mmengine keeps one visualizer per name.
    cfg.visualizer.name = work_dir.name
    cfg.update(val_dataloader=None, val_cfg=None, val_evaluator=None)
    cfg.update(test_dataloader=None, test_cfg=None, test_evaluator=None)
    runner = Runner.from_cfg(cfg)
    runner.train()
    scalars = runner.message_hub.log_scalars
    losses = {name: scalar.data[0].tolist() for name, scalar in scalars.items() if 'loss' in name}
    return runner, losses, sorted(Path(runner.work_dir).glob('**/vis_image/*.png'))


def test_draws_and_changes_nothing_about_the_training(shapes, tmp_path):
    plain, plain_losses, no_figures = train(shapes, tmp_path / 'plain')
    hooked, hooked_losses, figures = train(
        shapes, tmp_path / 'hooked', dict(type='EdgeVisualizationHook', interval=2, num_rois=3)
    )
    assert hooked_losses == plain_losses and len(plain_losses['train/loss_edge']) == 3
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(hooked.model.state_dict()[name], weight), name
    assert not no_figures
    assert [p.name for p in figures] == ['edges_1.png', 'edges_2.png']
    height, width, _ = imread(str(figures[0])).shape
    assert 500 < height < 900 and 1000 < width < 1500
    assert is_untouched(hooked.model)


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        (MASK_RCNN, {}),
        (MASK_RCNN, dict(class_agnostic=True)),
        (MASK_RCNN, dict(type='EdgeAgreementMaskHead', loss_edge=dict(filters=['laplacian', 'prewitt']))),
        (CASCADE, {}),
        (HTC, dict(type='EdgeAgreementHTCMaskHead')),
    ],
    ids=['plain', 'class-agnostic', 'edge', 'cascade', 'htc'],
)
def test_heads(name, options, monkeypatch):
    drawn = []
    monkeypatch.setattr(MODULE, 'draw_rois', lambda samples, **more: drawn.append((samples, more)) or 'figure')
    model = detector(name, **options)
    without = copy.deepcopy(model)
    hook, runner = start(model, num_rois=3)
    head = model.roi_head.mask_head
    last = head[-1] if isinstance(head, torch.nn.ModuleList) else head
    targets_seen = []
    get_targets = last.get_targets
    monkeypatch.setattr(
        last, 'get_targets', lambda **kwargs: targets_seen.append(get_targets(**kwargs)) or targets_seen[-1]
    )

    losses = iterate(hook, runner, semantic=name == HTC)
    assert runner.visualizer.added == [('edges', 'figure', 1)]
    ((samples, more),) = drawn
    # Of the last stage.
    assert all((targets_seen[0] == target).all(-1).all(-1).any() for target in samples.targets)
    assert samples.probs.shape == samples.targets.shape == (3, 28, 28)
    assert samples.crops.shape == (3, 112, 112, 3) and samples.crops.dtype == torch.uint8
    assert not samples.probs.requires_grad and ((samples.probs > 0) & (samples.probs < 1)).all()
    assert more['classes'][3] == 'name 3'
    assert more['filters'] == (('laplacian', 'prewitt') if 'loss_edge' in options else ('sobel',))

    plain_losses = iterate(EdgeVisualizationHook(), fake_runner(without), semantic=name == HTC)
    for key, value in plain_losses.items():
        for ours, theirs in zip(losses[key], value) if isinstance(value, list) else [(losses[key], value)]:
            assert torch.equal(ours, theirs), key
    monkeypatch.undo()
    assert is_untouched(model)


def test_interval_counts_from_the_start_of_training():
    hook, runner = start(detector(), interval=3, num_rois=1)
    for _ in range(4):
        iterate(hook, runner)
    assert [step for _, _, step in runner.visualizer.added] == [1, 3]
    # A resumed run draws at once, too.
    runner.iter = 100
    hook.before_train(runner)
    iterate(hook, runner)
    assert runner.visualizer.added[-1][2] == 101


def test_a_batch_without_positive_rois_is_skipped():
    hook, runner = start(detector(), interval=100)
    iterate(hook, runner, num_items=(0, 0))
    assert not runner.visualizer.added and is_untouched(runner.model)
    iterate(hook, runner)
    iterate(hook, runner)
    assert [step for _, _, step in runner.visualizer.added] == [2]


def test_a_failed_iteration_leaves_nothing_behind(monkeypatch):
    model = detector()
    hook, runner = start(model)
    backbone = model.backbone.forward

    def fail(*_, **__):
        raise RuntimeError('out of memory')

    monkeypatch.setattr(model.backbone, 'forward', fail)
    with pytest.raises(RuntimeError, match='out of memory'):
        iterate(hook, runner)
    assert is_untouched(model)
    # After the loss, but before the end of the forward pass.
    monkeypatch.setattr(model.backbone, 'forward', backbone)
    monkeypatch.setattr(model.roi_head.mask_head.loss_mask, 'forward', fail)
    with pytest.raises(RuntimeError, match='out of memory'):
        iterate(hook, runner)
    assert is_untouched(model)
    monkeypatch.undo()
    # Before the forward pass began: the next iteration cleans up.
    hook.before_train_iter(runner, 0)
    iterate(hook, runner)
    assert is_untouched(model) and len(runner.visualizer.added) == 1


def test_only_rank_0_draws(monkeypatch):
    monkeypatch.setattr(MODULE, 'is_main_process', lambda: False)
    hook, runner = start(detector())
    hook.before_train_iter(runner, 0)
    assert is_untouched(runner.model)
    hook.after_train_iter(runner, 0)
    assert not runner.visualizer.added


def test_a_detector_without_masks_is_refused():
    cfg = Config.fromfile(f'{get_installed_path("mmdet")}/.mim/configs/faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    cfg.model.backbone.init_cfg = None
    with pytest.raises(ValueError, match='must have a RoI head with a mask head.*got FasterRCNN'):
        EdgeVisualizationHook().before_train(fake_runner(MODELS.build(cfg.model)))


def sampled(ground_truths):
    num = len(ground_truths)
    return SimpleNamespace(
        pos_assigned_gt_inds=torch.tensor(ground_truths, dtype=torch.long),
        pos_gt_labels=torch.arange(num),
        pos_priors=torch.tensor([[10.0, 20.0, 66.0, 48.0]]).repeat(num, 1),
    )


def test_choose_rois_takes_each_object_once_first():
    #      index:  0  1  2  3  4             5  6  7
    results = [sampled([0, 0, 1, 1, 2]), sampled([0, 0, 0])]
    # In turns over the images: first RoI of each object, then second ones, then third ones.
    assert choose_rois(results, 100) == [0, 5, 2, 4, 1, 6, 3, 7]
    assert choose_rois(results, 3) == [0, 5, 2]
    assert choose_rois([sampled([]), sampled([])], 3) == []


def test_sample_rois():
    image = torch.zeros(1, 3, 64, 96)
    image[:, 0] = 10
    image[:, 2, :, 38:] = 250
    preds = torch.randn(2, 5, 28, 28, requires_grad=True)
    targets = torch.rand(2, 28, 28)
    samples = sample_rois(image, SimpleNamespace(), preds, targets, [sampled([0, 1])], 4)
    # BGR without normalisation; the box goes from column 10 to 66, so that column 38 is its middle.
    left, right = samples.crops[0, 50, 10].tolist(), samples.crops[0, 50, 100].tolist()
    assert (left, right) == ([0, 0, 10], [250, 0, 10])
    assert torch.allclose(samples.probs, preds.detach()[[0, 1], [0, 1]].sigmoid())
    assert torch.equal(samples.targets, targets)
    # A single channel is everybody's.
    samples = sample_rois(image, SimpleNamespace(), preds[:, 3:4], targets, [sampled([0, 1])], 4)
    assert torch.allclose(samples.probs, preds.detach()[:, 3].sigmoid())
    assert sample_rois(image, SimpleNamespace(), preds[:0], targets[:0], [sampled([])], 4) is None


def test_restore_colors():
    pixels = torch.randint(0, 256, (3, 8, 8)).byte()
    mean, std = [103.5, 116.3, 123.7], [57.4, 57.1, 58.4]
    for options in ({}, dict(bgr_to_rgb=True), dict(bgr_to_rgb=True, mean=mean, std=std), dict(mean=mean, std=std)):
        preprocessor = MODELS.build(dict(type='DetDataPreprocessor', **options))
        inputs = preprocessor(dict(inputs=[pixels], data_samples=None))['inputs']
        assert torch.allclose(restore_colors(inputs, preprocessor)[0], pixels.flip(0).float(), atol=1e-3)


def test_edge_maps():
    target = torch.zeros(1, 9, 12)
    target[:, :, 5:] = 1
    # Sobel responds to a straight unit step with 4 on either side; the border is an edge too with zero padding.
    edges, same, residual = edge_maps(target, target, padding_mode='replicate')
    assert edges[0, 4].tolist() == same[0, 4].tolist() == [0, 0, 0, 0, 4, 4, 0, 0, 0, 0, 0, 0]
    assert not residual.any()
    _, weak, residual = edge_maps(0.75 * target, target, padding_mode='replicate')
    assert weak[0, 4].tolist() == [0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0]
    assert residual[0, 4].tolist() == [0, 0, 0, 0, -1, -1, 0, 0, 0, 0, 0, 0]
    prob = target.clone()
    prob[:, :, :2] = 0.5
    assert edge_maps(prob, target, padding_mode='replicate')[2][0, 4].tolist() == [0, 2, 2, *[0] * 9]
    # Its square is what the loss averages.
    prob, target = torch.rand(3, 28, 28), torch.rand(3, 28, 28)
    residual = edge_maps(prob, target, ('sobel', 'laplacian'))[2]
    expected = EdgeLoss(filters=('sobel', 'laplacian'))(prob.logit(), target)
    assert residual.square().mean().item() / 3 == pytest.approx(expected.item(), rel=1e-4)


def test_figure_has_a_row_per_roi():
    targets = torch.zeros(2, 28, 28)
    targets[:, 8:20, 8:20] = 1
    probs = targets.clone()
    probs[1] *= 0.3
    samples = RoISamples(torch.full((2, 112, 112, 3), 128).byte(), torch.tensor([0, 7]), targets, probs)
    figure = draw_rois(samples, classes=('a',), title='t')
    assert figure.dtype == np.uint8 and figure.ndim == 3
    one_row = draw_rois(RoISamples(*(value[:1] for value in vars(samples).values())))
    assert figure.shape[1] == one_row.shape[1] and figure.shape[0] > one_row.shape[0]
    # The residuals are in the last column: none in the first row, blue in the second, no red.
    height, width, _ = figure.shape
    residuals = figure[:, int(width * 0.86) : int(width * 0.98)].astype(int)
    blueness = (residuals[..., 2] - residuals[..., 0])[int(height * 0.25) :]
    first, second = np.array_split(blueness, 2)
    assert np.abs(first).max() < 20
    assert second.max() > 60 and second.min() > -20
