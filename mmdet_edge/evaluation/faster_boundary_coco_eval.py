"""faster-coco-eval's evaluation with an exact boundary band. Needs the package faster-coco-eval."""

import numpy as np
from faster_coco_eval import COCOeval_faster
from faster_coco_eval.core import mask as faster_mask

from .boundary_coco_eval import boundary_width


class FasterBoundaryCOCOeval(COCOeval_faster):
    """Rounds the width of the boundary band in float64.

    Differs from ``COCOeval_faster`` for ``iouType='boundary'`` where the width is half a pixel: that class computes it
    in float32, and then the band is one pixel wider or narrower than in the paper's code.
    """

    def _prepare(self) -> None:
        super()._prepare()
        if self.params.iouType != 'boundary':
            return
        ratio = self.boundary_dilation_ratio
        for annotation in (*self.cocoGt.anns.values(), *self.cocoDt.anns.values()):
            if 'boundary' not in annotation:
                continue
            height, width = annotation['rle']['size']
            diagonal = float(np.hypot(height, width))
            if abs(ratio * diagonal % 1 - 0.5) < 1e-3:
                distance = boundary_width(height, width, ratio)
                annotation['boundary'] = faster_mask.rleToBoundary(annotation['rle'], distance / diagonal)
