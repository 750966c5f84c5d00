import json

from pycocotools.coco import COCO

from mmdet_edge.analysis import draw_comparison, figures, read_run
from mmdet_edge.datasets import make_shapes_dataset


def test_comparison_of_predictions(make_run, tmp_path, monkeypatch):
    make_shapes_dataset(str(tmp_path / 'data'), num_train=1, num_val=2, size=64)
    coco = COCO(tmp_path / 'data' / 'val.json')
    truth = json.loads((tmp_path / 'data' / 'val.json').read_text())['annotations']
    # COCO's result format, as CocoMetric writes it: the truth of the second image, one object of it hardly found.
    results = [
        dict(image_id=a['image_id'], category_id=a['category_id'], score=0.9 - (i == 0), segmentation=a['segmentation'])
        for i, a in enumerate(a for a in truth if a['image_id'] == 1)
    ]
    # Duplicates, and what is no object, are not drawn.
    results += [{**result, 'score': 1.0} for result in results[1:]]
    results.append({**results[0], 'score': 1.0, 'segmentation': coco.annToRLE(coco.imgToAnns[0][0])})
    drawn = []
    monkeypatch.setattr(figures, 'draw_image', lambda axes, image, masks: drawn.append(len(list(masks))))
    runs = {'a': read_run(make_run('a', 0, segm=lambda s: s / 400, loss_mask=lambda s: 1 / s))}
    draw_comparison(runs, {'a': results}, coco, tmp_path / 'data' / 'val', tmp_path / 'x.png', num_images=2)
    first, second = (len(coco.imgToAnns[i]) for i in (0, 1))
    assert drawn == [first, 0, second, second - 1]
    assert (tmp_path / 'x.png').read_bytes().startswith(b'\x89PNG')
