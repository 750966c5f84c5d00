"""mmcv's compiled operators, served by torchvision and torch where mmcv has none.

mmcv has no ready-made wheel for a torch after 2.4, and compiling it takes minutes to half an hour (mmdetection issues
11475, 11983 and 12426, mmcv issue 3310). ``mmcv-lite`` has the Python side of ``mmcv.ops``, but not the module
``mmcv._ext`` with the operators themselves. Here is one, as far as Mask R-CNN and its relatives need it.

The functions have the names, arguments and habits of mmcv's C++ ones: they fill the output tensors that they are
given. Arguments that exist only as buffers for the C++ code are ignored. Half precision is computed in float32.

Letters in shapes: N images, boxes or RoIs; C channels or classes; H, W height and width in pixels.
"""

import functools
import importlib.machinery
import importlib.util
import operator
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

PURPOSES = {
    'deformable attention on a GPU (Deformable DETR, DINO, Mask2Former)': 'ms_deform_attn',
    'masked convolutions (guided anchoring)': 'masked_',
    'pooling of RoIs and borders other than RoIAlign': 'roi_pool deform_roi_pool prroi_pool border_align',
    'the focal loss of softmax classifiers': 'softmax_focal_loss',
    'rotated boxes (MMRotate)': 'nms_ box_iou_ roi_align_rotated riroi_ rotated_ active_ convex_ min_area diff_iou '
    'points_in_polygons',
    'point clouds (MMDetection3D)': 'ball_query stack_ furthest_ gather_ group_ knn three_ iou3d points_in_boxes '
    'roiaware roipoint dynamic_ hard_voxelize indice_ fused_indice get_indice assign_score chamfer',
    'text detection (MMOCR)': 'pixel_group contour_expand bezier_align',
    'image generation (MMagic)': 'bias_act filtered_lrelu fused_bias upfirdn2d',
}
"""What operators that are not served are for -> the beginnings of their names."""

_announced = False


def serve_mmcv_ops() -> None:
    """Make ``mmcv._ext`` importable where mmcv was not compiled; a compiled one is not touched.

    To be called before anything imports ``mmcv.ops``. An operator that is not served raises an error when it is called,
    not before: ``mmcv.ops`` imports all of them.

    Raises:
        ImportError: If mmcv was not compiled, and there is no torchvision that works with this torch.
    """
    if 'mmcv._ext' in sys.modules or importlib.util.find_spec('mmcv._ext') is not None:
        return
    try:
        # Registers its operators with torch.
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f'mmdet_edge: mmcv has no compiled operators, and torchvision, which replaces them, cannot be imported: '
            f'{error}. Install the torchvision that belongs to torch {torch.__version__}, from where torch came from'
        ) from error
    module = ModuleType('mmcv._ext', __doc__)
    # What importlib.util.find_spec, and with it mmcv, looks at.
    module.__spec__ = importlib.machinery.ModuleSpec('mmcv._ext', None, origin=__file__)
    module.__dict__.update(SERVED, __getattr__=_missing)
    sys.modules['mmcv._ext'] = module


def served_operators() -> list[str]:
    """Return the names of the operators, without the suffixes of their forward and backward functions.

    Example:
        >>> served_operators()[:3]
        ['carafe', 'carafe_naive', 'deform_conv']
    """
    return sorted({name.partition('_forward')[0].partition('_backward')[0] for name in SERVED if name[:4] != 'get_'})


def _missing(name: str) -> Callable:
    """Return a function that raises an error, in place of an operator of mmcv that is not served."""
    if name.startswith('__'):
        raise AttributeError(f'mmcv._ext has no attribute {name!r}')

    def raise_error(*args: Any, **kwargs: Any) -> None:
        purpose = next((text for text, names in PURPOSES.items() if name.startswith(tuple(names.split()))), None)
        raise NotImplementedError(
            f"mmcv's operator {name!r}{f', for {purpose},' if purpose else ''} needs a compiled mmcv. Without one, "
            f'mmdet_edge serves only: {", ".join(served_operators())}. Install a compiled one: `make install '
            "OPS=compiled` in a clone of mmdet_edge, or mmcv's own wheels "
            '(https://mmcv.readthedocs.io/en/latest/get_started/installation.html)'
        )

    return raise_error


def _serve(function: Callable) -> Callable:
    """Wrap an operator: say once that it is ours, and compute as it is written, whatever autocast is on."""

    @functools.wraps(function)
    def call(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        global _announced
        if not _announced:
            _announced = True
            version = sys.modules['torchvision'].__version__
            print_log(
                f"mmcv is not compiled: its operators are torchvision {version}'s and torch's "
                f'({", ".join(served_operators())}). A compiled mmcv would be used if there were one',
                'current',
            )
        with torch.autocast(tensor.device.type, enabled=False):
            return function(tensor, *args, **kwargs)

    return call


def _full(*tensors: Tensor) -> list[Tensor]:
    """Return tensors in float32, or float64 if they are: torchvision has no half precision on a CPU."""
    return [tensor if tensor.dtype == torch.float64 else tensor.float() for tensor in tensors]


def roi_align_forward(input: Tensor, rois: Tensor, output: Tensor, *buffers: Tensor, **options: Any) -> None:
    """Pool RoIs (N, 5), as (image, x1, y1, x2, y2), of features (images, C, H, W) into output (N, C, h, w)."""
    output.copy_(torch.ops.torchvision.roi_align(*_full(input, rois), *_pooling(options)))


def roi_align_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor, **options: Any
) -> None:
    """Fill the gradient of the features, (images, C, H, W)."""
    scale, height, width, *rest = _pooling(options)
    backward = torch.ops.torchvision._roi_align_backward
    grad_input.copy_(backward(*_full(grad_output, rois), scale, height, width, *grad_input.shape, *rest))


def _pooling(options: dict[str, Any]) -> tuple:
    if options['pool_mode'] != 1:
        raise NotImplementedError(
            "RoIAlign: pool_mode='max' needs a compiled mmcv; torchvision has only 'avg', which mmdet's configs use"
        )
    names = ('spatial_scale', 'aligned_height', 'aligned_width', 'sampling_ratio', 'aligned')
    return operator.itemgetter(*names)(options)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices of the boxes (N, 4) to keep, int64, by decreasing score.

    Equal scores keep their order; in compiled mmcv, torch's sort may change it.
    """
    boxes, scores = _full(boxes, scores)
    if offset == 0:
        # mmcv compares with the float32 number.
        return torch.ops.torchvision.nms(boxes, scores, float(np.float32(iou_threshold)))
    groups = _group_boxes(boxes, scores, iou_threshold, offset, operator.gt)
    return torch.tensor([group[0] for group in groups], dtype=torch.long, device=boxes.device)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Return, for each box that is kept, its index and those of the boxes that it suppresses; dets (N, 5)."""
    (dets,) = _full(dets)
    return _group_boxes(dets[:, :4], dets[:, 4], iou_threshold, 0, operator.ge)


def _group_boxes(boxes: Tensor, scores: Tensor, threshold: float, offset: int, exceeds: Callable) -> list[list[int]]:
    """Do what NMS does, on the CPU, with the operations of mmcv in its order, and keep who suppressed whom."""
    order = scores.sort(descending=True, stable=True).indices.cpu().numpy()
    corners = boxes.detach().cpu().numpy()
    groups = []
    while order.size:
        first, order = order[0], order[1:]
        hit = exceeds(_overlaps(corners[first], corners[order], offset), np.float32(threshold))
        groups.append([int(first), *order[hit].tolist()])
        order = order[~hit]
    return groups


def _overlaps(box: np.ndarray, boxes: np.ndarray, offset: int) -> np.ndarray:
    """Return the IoU of a box (4,) with boxes (N, 4)."""
    areas = [(b[..., 2] - b[..., 0] + offset) * (b[..., 3] - b[..., 1] + offset) for b in (box, boxes)]
    sizes = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]) + offset
    width, height = sizes.clip(min=0).T
    intersection = width * height
    # Of two boxes without an area it is not a number, as in C++.
    with np.errstate(divide='ignore', invalid='ignore'):
        return intersection / (areas[0] + areas[1] - intersection)


def softnms(
    boxes: Tensor, scores: Tensor, dets: Tensor, iou_threshold: float, sigma: float, min_score: float, **options: int
) -> Tensor:
    """Lower the scores of overlapping boxes (N, 4); the option ``method``: 0 suppresses, 1 is linear, 2 Gaussian.

    Fills the first rows of dets (N, 5) with boxes and scores, and returns the indices of these boxes, int64.
    """
    method, offset = options['method'], options['offset']
    rows = torch.cat(_full(boxes, scores[:, None]), 1).numpy()
    kept = np.arange(len(rows))
    size, i = len(rows), 0
    while i < size:
        best = i + rows[i:size, 4].argmax()
        swap, swapped = np.array([i, best]), np.array([best, i])
        rows[swap], kept[swap] = rows[swapped], kept[swapped]
        rest, rest_kept = rows[i + 1 : size], kept[i + 1 : size]
        overlaps = _overlaps(rows[i, :4], rest[:, :4], offset)
        if method == 2:
            rest[:, 4] *= np.exp(-(overlaps * overlaps) / np.float32(sigma))
        else:
            rest[:, 4] *= np.where(overlaps >= np.float32(iou_threshold), 1 - overlaps if method else 0, 1)
        dead = rest[:, 4] < np.float32(min_score)
        count = len(rest) - int(dead.sum())
        # The last boxes move into the gaps, as in C++: the order decides among equal scores.
        gaps, movers = np.flatnonzero(dead[:count]), np.flatnonzero(~dead[count:])[::-1] + count
        rest[gaps], rest_kept[gaps] = rest[movers], rest_kept[movers]
        i, size = i + 1, i + 1 + count
    dets[:size] = torch.from_numpy(rows[:size])
    return torch.from_numpy(kept[:size])


_V1 = operator.itemgetter('dH', 'dW', 'padH', 'padW', 'dilationH', 'dilationW', 'group', 'deformable_group')
_V2 = operator.itemgetter(
    'stride_h', 'stride_w', 'pad_h', 'pad_w', 'dilation_h', 'dilation_w', 'group', 'deformable_group'
)


def _deform_args(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    geometry: tuple,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> list:
    """Return the arguments of torchvision's deformable convolution: version 1 has neither mask nor bias."""
    arguments = _full(
        input,
        weight,
        offset,
        input.new_zeros(len(input), 1) if mask is None else mask,
        weight.new_zeros(len(weight)) if bias is None else bias,
    )
    # torchvision reads at a random address where an offset is not a number or, on a GPU, beyond the range of integers,
    # as in a diverging run: the process would crash instead of reporting the loss. In mmcv's forward function it lies
    # outside the image, as it does here.
    arguments[2] = arguments[2].nan_to_num(1e6).clamp(-1e6, 1e6)
    return [*arguments, *geometry, mask is not None]


def deform_conv_forward(input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, *_: Tensor, **opt: Any) -> None:
    """Fill the output (N, C_out, H_out, W_out) of a deformable convolution, version 1, without a bias."""
    output.copy_(torch.ops.torchvision.deform_conv2d(*_deform_args(input, weight, offset, _V1(opt))))


def deform_conv_backward_input(
    input: Tensor, offset: Tensor, grad_output: Tensor, *tensors: Tensor, **opt: Any
) -> None:
    """Fill the gradients of input and offset."""
    of_input, of_offset, weight, _ = tensors
    arguments = _deform_args(input, weight, offset, _V1(opt))
    grads = torch.ops.torchvision._deform_conv2d_backward(*_full(grad_output), *arguments)
    of_input.copy_(grads[0])
    of_offset.copy_(grads[2])
    # torchvision has computed that of the weight too, and mmcv asks for it next.
    grad_output.__dict__['of_weight'] = (input, offset, grads[1])


def deform_conv_backward_parameters(
    input: Tensor, offset: Tensor, grad_output: Tensor, of_weight: Tensor, *_: Tensor, scale: float, **opt: Any
) -> None:
    """Fill the gradient of the weight."""
    *inputs, grad = grad_output.__dict__.pop('of_weight', (None, None, None))
    if inputs[0] is not input or inputs[1] is not offset:
        # Only this gradient is asked for; it does not depend on the weight.
        arguments = _deform_args(input, of_weight, offset, _V1(opt))
        grad = torch.ops.torchvision._deform_conv2d_backward(*_full(grad_output), *arguments)[1]
    of_weight.copy_(scale * grad)


def modulated_deform_conv_forward(
    input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor, *tensors: Tensor, with_bias: bool, **opt: Any
) -> None:
    """Fill the output (N, C_out, H_out, W_out) of a deformable convolution, version 2."""
    offset, mask, output, _ = tensors
    arguments = _deform_args(input, weight, offset, _V2(opt), mask, bias if with_bias else None)
    output.copy_(torch.ops.torchvision.deform_conv2d(*arguments))


def modulated_deform_conv_backward(
    input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor, *tensors: Tensor, with_bias: bool, **opt: Any
) -> None:
    """Fill the gradients."""
    offset, mask, _, of_input, of_weight, of_bias, of_offset, of_mask, grad_output = tensors
    arguments = _deform_args(input, weight, offset, _V2(opt), mask, bias if with_bias else None)
    grads = torch.ops.torchvision._deform_conv2d_backward(*_full(grad_output), *arguments)
    for filled, grad in zip((of_input, of_weight, of_offset, of_mask, of_bias)[: 4 + with_bias], grads):
        filled.copy_(grad)


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill the loss of each logit (N, C); target (N,), C for the background; weight (C,) of the classes, or empty."""
    p, is_target, scale, log = _focal_terms(input, target, weight)
    of_target, of_others = (1 - p) ** gamma * log(p), p**gamma * log(1 - p)
    output.copy_(-scale * torch.where(is_target, alpha * of_target, (1 - alpha) * of_others))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill the gradient of the summed loss, (N, C)."""
    p, is_target, scale, log = _focal_terms(input, target, weight)
    of_target = (1 - p) ** gamma * (1 - p - gamma * p * log(p))
    of_others = p**gamma * (gamma * (1 - p) * log(1 - p) - p)
    grad_input.copy_(-scale * torch.where(is_target, alpha * of_target, (1 - alpha) * of_others))


def _focal_terms(input: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Callable]:
    p = _full(input)[0].sigmoid()
    is_target = target[:, None] == torch.arange(input.shape[1], device=input.device)
    # mmcv has no weight for the background.
    scale = F.pad(weight, (0, 1), value=1)[target][:, None] if weight.numel() else p.new_ones(1)
    return p, is_target, scale, lambda x: x.clamp(min=torch.finfo(torch.float32).tiny).log()


def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Fill the mean of each channel, (C,), of an input (N, C, H * W)."""
    mean.copy_(input.float().mean((0, 2)))


def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Fill the biased variance of each channel, (C,), around a given mean."""
    var.copy_((input.float() - mean[:, None]).square().mean((0, 2)))


def sync_bn_forward_output(
    input: Tensor, mean: Tensor, var: Tensor, *tensors: Any, eps: float, momentum: Any, group_size: int
) -> None:
    """Fill the normalised input, the standard deviations and the output; update the running statistics."""
    weight, bias, running_mean, running_var, norm, std, output = tensors
    std.copy_((var + eps).sqrt())
    norm.copy_((input.float() - mean[:, None]) / std[:, None])
    output.copy_(norm if weight is None or bias is None else norm * weight[:, None] + bias[:, None])
    if running_mean is not None and running_var is not None:
        count = input.shape[0] * input.shape[2] * group_size
        running_mean += momentum * (mean - running_mean)
        running_var += momentum * (var * (count / max(count - 1, 1) if count > 1 else 1) - running_var)


def sync_bn_backward_param(grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor) -> None:
    """Fill the gradients of weight and bias, (C,)."""
    grad = grad_output.float()
    grad_weight.copy_((grad * norm).sum((0, 2)))
    grad_bias.copy_(grad.sum((0, 2)))


def sync_bn_backward_data(
    grad_output: Tensor, weight: Tensor, grad_weight: Tensor, grad_bias: Tensor, norm: Tensor, *tensors: Tensor
) -> None:
    """Fill the gradient of the input, from those of weight and bias averaged over the processes."""
    std, grad_input = tensors
    count = grad_output.shape[0] * grad_output.shape[2]
    of_statistics = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_((weight / std)[:, None] * (grad_output.float() - of_statistics))


def _reassemble(sizes: dict[str, int], features: Tensor, masks: Tensor) -> Tensor:
    """Upsample features (N, C, H, W) with a kernel of its own at each output pixel (CARAFE, arXiv 1905.02188).

    Masks are (N, groups * kernel * kernel, H * scale, W * scale). On nearest-neighbour upsampled features, the kernel
    is one with gaps of ``scale_factor`` pixels; one product for each of its elements needs the least memory.
    """
    kernel, groups, scale = sizes['kernel_size'], sizes['group_size'], sizes['scale_factor']
    (num, channels), (height, width) = features.shape[:2], masks.shape[2:]
    large = F.pad(features, [kernel // 2] * 4).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    large = large.view(num, groups, channels // groups, *large.shape[2:])
    masks = masks.view(num, groups, kernel**2, 1, height, width)
    output = large.new_zeros(num, groups, channels // groups, height, width)
    for k in range(kernel**2):
        top, left = (scale * shift for shift in divmod(k, kernel))
        output = output.addcmul(large[..., top : top + height, left : left + width], masks[:, :, k])
    return output.view(num, channels, height, width)


def carafe_naive_forward(features: Tensor, masks: Tensor, output: Tensor, **sizes: int) -> None:
    """Fill the output (N, C, H * scale, W * scale)."""
    output.copy_(_reassemble(sizes, *_full(features, masks)))


def carafe_naive_backward(grad_output: Tensor, features: Tensor, masks: Tensor, *filled: Tensor, **sizes: int) -> None:
    """Fill the gradients of features and masks."""
    inputs = [tensor.detach().requires_grad_() for tensor in _full(features, masks)]
    with torch.enable_grad():
        output = _reassemble(sizes, *inputs)
    for tensor, grad in zip(filled, torch.autograd.grad([output], inputs, _full(grad_output))):
        tensor.copy_(grad)


def carafe_forward(features: Tensor, masks: Tensor, kept: Tensor, *tensors: Tensor, **sizes: int) -> None:
    """Fill the output, the last tensor, and ``kept``, which the backward function gets for the features."""
    kept.copy_(features)
    carafe_naive_forward(features, masks, tensors[-1], **sizes)


def carafe_backward(grad_output: Tensor, kept: Tensor, masks: Tensor, *tensors: Tensor, **sizes: int) -> None:
    """Fill the gradients of features and masks, the last two tensors."""
    carafe_naive_backward(grad_output, kept, masks, *tensors[-2:], **sizes)


def _version() -> str:
    return 'none (mmdet_edge serves the operators)'


_OPERATORS = (
    *(carafe_backward, carafe_forward, carafe_naive_backward, carafe_naive_forward),
    *(deform_conv_backward_input, deform_conv_backward_parameters, deform_conv_forward),
    *(modulated_deform_conv_backward, modulated_deform_conv_forward),
    *(nms, nms_match, roi_align_backward, roi_align_forward, softnms),
    *(sigmoid_focal_loss_backward, sigmoid_focal_loss_forward),
    *(sync_bn_backward_data, sync_bn_backward_param),
    *(sync_bn_forward_mean, sync_bn_forward_output, sync_bn_forward_var),
)
SERVED: dict[str, Callable] = {function.__name__: _serve(function) for function in _OPERATORS}
"""Names of functions of ``mmcv._ext`` -> ours."""

# mmengine and mmcv write these into the log of every run.
SERVED.update(get_compiler_version=_version, get_compiling_cuda_version=_version)
