import json

from pycocotools.coco import COCO

from mmdet_edge.analysis import Run, comparison_figure, draw_comparison
from mmdet_edge.datasets import make_shapes_dataset


def test_comparison_of_predictions(tmp_path, monkeypatch):
    make_shapes_dataset(str(tmp_path / 'data'), num_train=1, num_val=2, size=64)
    coco = COCO(tmp_path / 'data' / 'val.json')
    truth = json.loads((tmp_path / 'data' / 'val.json').read_text())['annotations']
    # COCO's result format, as CocoMetric writes it: the truth of the second image, one object of it hardly found.
    results = [
        dict(image_id=a['image_id'], category_id=a['category_id'], score=0.9 - (i == 0), segmentation=a['segmentation'])
        for i, a in enumerate(a for a in truth if a['image_id'] == 1)
    ]
    # Duplicates, and predictions that match no object, are not drawn.
    results += [{**result, 'score': 1.0} for result in results[1:]]
    results.append({**results[0], 'score': 1.0, 'segmentation': coco.annToRLE(coco.imgToAnns[0][0])})
    drawn = []
    monkeypatch.setattr(comparison_figure, 'draw_image', lambda axes, image, masks: drawn.append(len(list(masks))))
    run = Run(tmp_path, [{'step': i, 'loss_mask': 1 / i, 'coco/segm_mAP': i / 40} for i in range(1, 40)])
    draw_comparison({'a': run}, {'a': results}, coco, tmp_path / 'data' / 'val', tmp_path / 'x.png', 2)
    first, second = (len(coco.imgToAnns[i]) for i in (0, 1))
    assert drawn == [first, 0, second, second - 1]
    assert (tmp_path / 'x.png').read_bytes().startswith(b'\x89PNG')
