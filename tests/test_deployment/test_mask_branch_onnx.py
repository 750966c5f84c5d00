import importlib.util
import shutil

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.utils import get_installed_path

from mmdet_edge.deployment import export_mask_branch, mask_branch_onnx
from mmdet_edge.deployment.strict_loading import load_strictly
from mmdet_edge.preflight.checkpoint import read_checkpoint

from .conftest import run_tool

pytest.importorskip('onnx', reason='onnx is not installed; it is in the extra onnx')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed; it is in the extra onnx')


def test_finds_the_same_logits_for_any_number_of_rois(trained, tmp_path, capsys):
    config, checkpoint = trained
    out = tmp_path / 'new' / 'mask.onnx'
    run_tool('mask_branch_to_onnx.py', config, checkpoint, out)
    assert capsys.readouterr().out.endswith(' MiB); onnxruntime computes the same logits\n')
    assert list(out.parent.iterdir()) == [out]
    session = onnxruntime.InferenceSession(str(out))
    (feats,), (preds,) = session.get_inputs(), session.get_outputs()
    assert (feats.name, feats.shape) == ('roi_feats', ['num_rois', 64, 14, 14])
    assert (preds.name, preds.shape) == ('mask_preds', ['num_rois', 6, 28, 28])
    model = load_strictly(Config.fromfile(config), str(checkpoint), read_checkpoint(str(checkpoint))['state_dict'])
    for num_rois in (0, 1, 2, 50):
        inputs = torch.randn(num_rois, 64, 14, 14)
        expected = model.roi_head.mask_head(inputs).detach().numpy()
        (found,) = session.run(None, dict(roi_feats=inputs.numpy()))
        assert found.shape == expected.shape
        assert abs(found - expected).max(initial=0) <= 1e-5 * max(1, abs(expected).max(initial=0))


def test_other_logits_are_told_and_nothing_is_written(trained, tmp_path, monkeypatch):
    trace = mask_branch_onnx._trace

    def trace_another(head, features, path):
        trace(head, features, path)
        head.conv_logits.bias.data += 1e-3

    monkeypatch.setattr(mask_branch_onnx, '_trace', trace_another)
    with pytest.raises(RuntimeError, match='computes other logits than torch .* for 3 RoIs: they differ by more than'):
        export_mask_branch(Config.fromfile(trained[0]), str(trained[1]), tmp_path / 'mask.onnx')
    assert list(tmp_path.iterdir()) == []


def test_says_that_nothing_was_compared_without_onnxruntime(trained, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'onnxruntime' else find_spec(name))
    out = tmp_path / 'mask.onnx'
    assert export_mask_branch(Config.fromfile(trained[0]), str(trained[1]), out) is False
    assert out.is_file()


@pytest.fixture
def random_weights(monkeypatch):
    """Build the model of a config of mmdet, whatever the checkpoint holds."""
    monkeypatch.setattr(mask_branch_onnx, 'load_strictly', lambda cfg, *_: MODELS.build(cfg.model).eval())

    def read(name):
        cfg = Config.fromfile(f'{get_installed_path("mmdet")}/.mim/configs/{name}')
        cfg.model.backbone.init_cfg = None
        return cfg

    return read


def test_the_features_of_a_shared_head(trained, tmp_path, random_weights):
    cfg = random_weights('mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py')
    assert export_mask_branch(cfg, str(trained[1]), tmp_path / 'mask.onnx') is True
    (feats,) = onnxruntime.InferenceSession(str(tmp_path / 'mask.onnx')).get_inputs()
    assert feats.shape == ['num_rois', 2048, 7, 7]


def test_a_head_of_another_kind_is_refused(trained, tmp_path, random_weights):
    for name, found in (
        ('cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py', 'CascadeRCNN with mask head ModuleList'),
        ('point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py', 'PointRend with mask head CoarseMaskHead'),
        ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'FasterRCNN with no mask head'),
    ):
        with pytest.raises(ValueError, match=f'expected a detector with a single FCNMaskHead.*got {found}'):
            export_mask_branch(random_weights(name), str(trained[1]), tmp_path / 'mask.onnx')
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(trained, tmp_path):
    out = shutil.copy(trained[0], tmp_path / 'mask.onnx')
    with pytest.raises(SystemExit, match='error: .*mask.onnx exists, and nothing is overwritten'):
        run_tool('mask_branch_to_onnx.py', *trained, out)
