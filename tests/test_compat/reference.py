"""Operators of mmcv.ops on stored inputs, and the results of compiled mmcv for them.

Where mmcv 2.1.0 was compiled, ``python tests/test_compat/reference.py`` writes inputs and results, forward and
backward, to tests/data/mmcv_ops.npz. Only operators that compiled mmcv has for a CPU are there.
"""

from pathlib import Path

import numpy as np
import torch
from mmcv import ops

PATH = Path(__file__).parents[1] / 'data' / 'mmcv_ops.npz'


def with_gradients(function, inputs, **options):
    """Return the output, and the gradients of the inputs for a gradient of the output that is not constant."""
    tensors = [tensor.detach().requires_grad_() for tensor in inputs]
    output = function(*tensors, **options)
    output.backward(torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=output.device).view_as(output))
    return [output.detach(), *[tensor.grad for tensor in tensors]]


def roi_align(features, rois, size, scale, ratio, aligned):
    return with_gradients(lambda x: ops.roi_align(x, rois, size, scale, ratio, 'avg', aligned), [features])


def deform_conv(x, offset, weight, **options):
    # mmcv 2.0.1 takes no keywords here.
    return with_gradients(lambda *tensors: ops.deform_conv2d(*tensors, *options.values()), [x, offset, weight])


def modulated_deform_conv(x, offset, mask, weight, bias=None, **options):
    def function(*tensors):
        tensors = tensors if bias is not None else (*tensors, None)
        return ops.modulated_deform_conv2d(*tensors, *options.values())

    return with_gradients(function, [x, offset, mask, weight, *([] if bias is None else [bias])])


def nms_match(boxes, scores, threshold):
    groups = ops.nms_match(torch.cat([boxes, scores[:, None]], 1), threshold)
    return [torch.cat(groups), torch.tensor([len(group) for group in groups])]


def batched_nms(boxes, scores, classes, **options):
    return ops.batched_nms(boxes, scores, classes, options)


GEOMETRY = {
    'plain': dict(stride=1, padding=1, dilation=1, groups=1, deform_groups=1),
    'strided': dict(stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, deform_groups=2),
}

CASES = {
    **{
        f'roi_align ratio={ratio} aligned={aligned}': (roi_align, 'pooling', ((3, 4), 0.5, ratio, aligned))
        for ratio in (0, 2)
        for aligned in (True, False)
    },
    'roi_align 14x14': (roi_align, 'many', ((14, 14), 0.25, 0, True)),
    **{
        f'nms {kind} {threshold} offset={offset}': (ops.nms, kind, (threshold, offset))
        for kind in ('boxes', 'grid')
        for threshold in (0.2, 0.5, 0.6)
        for offset in (0, 1)
    },
    'nms of the best': (ops.nms, 'boxes', (0.5, 0, 0.3, 20)),
    'batched_nms': (batched_nms, 'classes', dict(type='nms', iou_threshold=0.4)),
    'batched_nms soft': (batched_nms, 'classes', dict(type='soft_nms', iou_threshold=0.4, min_score=0.05)),
    **{
        f'soft_nms {kind} {method} offset={offset}': (ops.soft_nms, kind, (0.3, 0.5, 0.05, method, offset))
        for kind in ('boxes', 'grid')
        for method in ('naive', 'linear', 'gaussian')
        for offset in (0, 1)
    },
    **{f'nms_match {kind}': (nms_match, kind, (0.5,)) for kind in ('boxes', 'grid')},
    **{f'deform_conv {kind}': (deform_conv, f'deform {kind}', options) for kind, options in GEOMETRY.items()},
    **{
        f'modulated_deform_conv {kind}': (modulated_deform_conv, f'modulated {kind}', options)
        for kind, options in GEOMETRY.items()
    },
}
"""Name -> function, name of its inputs, options."""

EXACT = ('roi_align', 'nms', 'batched_nms')
"""Beginnings of the names of cases that are bit for bit the same on a CPU."""


def run(name, arrays, device='cpu'):
    """Return the results of a case as arrays."""
    function, inputs, options = CASES[name]
    tensors = [torch.from_numpy(arrays[key]).to(device) for key in sorted(arrays) if key.startswith(f'{inputs}/')]
    results = function(*tensors, **options) if isinstance(options, dict) else function(*tensors, *options)
    return [result.cpu().numpy() for result in results]


def make_inputs():
    """Return 'name/position' -> array."""
    random = np.random.default_rng(0)

    def rois(num, images, size):
        corners = random.uniform(-4, size, (num, 2))
        # Some lie outside, some have no area.
        far = corners + random.uniform(0, size, (num, 2)) * (random.random((num, 1)) > 0.1)
        return np.concatenate([random.integers(0, images, (num, 1)), corners, far], 1)

    def boxes(num, size):
        corners = random.uniform(0, size, (num, 2))
        return np.concatenate([corners, corners + random.uniform(5, size / 2, (num, 2))], 1)

    def grid(num):
        # Many overlaps here are exactly at a threshold.
        corners = random.integers(0, 6, (num, 2))
        return np.concatenate([corners, corners + random.integers(1, 6, (num, 2))], 1)

    def scores(num):
        # All different: which of equal ones is first is up to torch's sort.
        return random.permutation(np.linspace(0.01, 0.99, num))

    inputs = {
        'pooling': [random.normal(size=(2, 3, 13, 17)), rois(8, 2, 30)],
        'many': [random.normal(size=(1, 2, 24, 24)), rois(24, 1, 90)],
        'boxes': [boxes(120, 60), scores(120)],
        'grid': [grid(80), scores(80)],
        'classes': [boxes(100, 40), scores(100), random.integers(0, 3, 100)],
    }
    for kind, out in (('plain', (9, 11)), ('strided', (5, 11))):
        groups = GEOMETRY[kind]['groups']
        x, weight = random.normal(size=(2, 4, 9, 11)), random.normal(size=(6, 4 // groups, 3, 3))
        offset, mask = random.normal(size=(2, 18 * groups, *out)) * 2, random.random((2, 9 * groups, *out))
        inputs[f'deform {kind}'] = [x, offset, weight]
        inputs[f'modulated {kind}'] = [x, offset, mask, weight]
    inputs['modulated plain'].append(random.normal(size=6))
    return {
        f'{name}/{i}': array if array.dtype == np.int64 and name == 'classes' else array.astype(np.float32)
        for name, arrays in inputs.items()
        for i, array in enumerate(arrays)
    }


if __name__ == '__main__':
    arrays = make_inputs()
    for name in CASES:
        arrays.update({f'{name}/result/{i}': result for i, result in enumerate(run(name, arrays))})
    np.savez_compressed(PATH, **arrays)
