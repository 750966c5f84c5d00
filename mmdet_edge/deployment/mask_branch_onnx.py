"""The mask branch as an ONNX model."""

import importlib.util
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmengine.config import Config
from mmengine.utils import digit_version

from mmdet_edge.preflight.checkpoint import read_checkpoint

from .strict_loading import load_strictly

# Of the largest logit: float32 has 7 digits.
TOLERANCE = 1e-5


def export_mask_branch(cfg: Config, checkpoint: str, out: str | Path) -> bool:
    """Write the mask head of a detector as an ONNX model.

    The input 'roi_feats', (N, C, H, W), has the features of N RoIs, as the head's forward takes them; the output
    'mask_preds', (N, K, 2 H, 2 W) with mmdet's default head, has the logits of K classes that it returns. N is dynamic.

    Args:
        cfg (Config): Config of a detector with a single FCN-like mask head, such as Mask R-CNN.
        checkpoint (str): Path or URL of its checkpoint.
        out (str | Path): File to write; it must not exist yet.

    Returns:
        bool: True if onnxruntime computed the same logits for several N, to 1e-5 of the largest (or absolute, if that
        is below 1); False if it is not installed.

    Raises:
        FileExistsError: If ``out`` exists.
        ImportError: If onnx is not installed.
        RuntimeError: If onnxruntime computes other logits; nothing is written then.
        ValueError: If the checkpoint cannot be read or does not fit; if the model has no such mask head, or one
            without ONNX operators.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f'{out} exists, and nothing is overwritten: remove it or name another file')
    if importlib.util.find_spec('onnx') is None:
        raise ImportError('exporting needs onnx: pip install onnx onnxruntime')
    model = load_strictly(cfg, checkpoint, read_checkpoint(checkpoint)['state_dict'])
    roi_head: Any = getattr(model, 'roi_head', None)
    head = getattr(roi_head, 'mask_head', None)
    # Cascades average their stages, HTC passes features from one to the next, PointRend refines afterwards.
    if not isinstance(head, FCNMaskHead) or type(head).forward is not FCNMaskHead.forward:
        found = 'no mask head' if head is None else f'mask head {type(head).__name__}'
        raise ValueError(
            f'expected a detector with a single FCNMaskHead or Edge Agreement Head, as Mask R-CNN has, got '
            f'{type(model).__name__} with {found}'
        )
    extractor = roi_head.mask_roi_extractor
    # Not one RoI, which the trace could treat as a constant.
    features = torch.randn(3, extractor.out_channels, *extractor.roi_layers[0].output_size)
    if roi_head.with_shared_head:
        features = roi_head.shared_head(features).detach()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{out.name}.', dir=out.parent) as scratch:
        path = Path(scratch, out.name)
        _trace(head, features, path)
        checked = importlib.util.find_spec('onnxruntime') is not None
        if checked:
            _compare(head, features, path)
        path.rename(out)
    return checked


def _trace(head: FCNMaskHead, features: torch.Tensor, path: Path) -> None:
    """Write an ONNX file."""
    # The versions of torch that mmcv has ready-made wheels for do not have the newer exporter.
    exporter: Mapping[str, Any] = {} if digit_version(torch.__version__) < digit_version('2.5') else dict(dynamo=False)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        try:
            torch.onnx.export(
                head,
                (features,),
                str(path),
                input_names=['roi_feats'],
                output_names=['mask_preds'],
                dynamic_axes=dict(roi_feats={0: 'num_rois'}, mask_preds={0: 'num_rois'}),
                **exporter,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f'torch cannot export this {type(head).__name__} to ONNX: {reason}') from error


def _compare(head: FCNMaskHead, features: torch.Tensor, path: Path) -> None:
    """Compare an ONNX file with the head that it was exported from."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    with torch.no_grad():
        tolerance = TOLERANCE * max(1.0, head(features).abs().max().item())
    for inputs in (features, features[:0], features[:1], torch.cat([features, features.flip(0)])):
        with torch.no_grad():
            expected = head(inputs)
        (outputs,) = session.run(['mask_preds'], dict(roi_feats=inputs.numpy()))
        found = torch.from_numpy(outputs)
        if found.shape != expected.shape or not torch.allclose(found, expected, rtol=0, atol=tolerance):
            raise RuntimeError(
                f'onnxruntime {onnxruntime.__version__} computes other logits than torch {torch.__version__} for '
                f'{len(inputs)} RoIs: they differ by more than {tolerance:g}'
            )
