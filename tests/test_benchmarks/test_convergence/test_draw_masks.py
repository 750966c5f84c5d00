"""The figure of masks on their photographs."""

import json

import cv2
import numpy as np
import pytest

from benchmarks.convergence.draw_masks import choose_objects, paste
from mmdet_edge.errors import UserError


def test_objects_lie_at_equal_distances_in_the_order_of_the_gain():
    gain, sizes = np.array([0.5, -0.1, 0.2, 0.9, 0.0, 0.3]), np.array([9, 9, 9, 1, 9, 9])
    assert choose_objects(gain, sizes, 5, 2).tolist() == [1, 4, 2, 5, 0]
    assert choose_objects(gain, sizes, 1, 0).tolist() == [5]
    with pytest.raises(UserError, match='--min-size 2 leaves 5 objects, 6 are to be drawn'):
        choose_objects(gain, sizes, 6, 2)


def test_a_mask_lies_where_its_box_is():
    prob = np.zeros((4, 4), np.uint8)
    prob[:, :2] = 255
    mask = paste(prob, np.array([2.0, 1.0, 10.0, 5.0]), 6, 12)
    expected = np.zeros((6, 12), bool)
    expected[1:5, 2:6] = True
    assert (mask == expected).all()


def test_draws_a_figure(tmp_path, call):
    images = [dict(id=i, file_name=f'{i}.png', height=40, width=60) for i in (0, 1)]
    box = [10, 5, 30, 30]
    annotation = dict(category_id=1, bbox=box, area=900, iscrowd=0, segmentation=[[10, 5, 40, 5, 40, 35, 10, 35]])
    annotations = [dict(annotation, id=i + 1, image_id=i) for i in (0, 1)]
    (tmp_path / 'val.json').write_text(
        json.dumps(dict(images=images, annotations=annotations, categories=[dict(id=1, name='box')]))
    )
    for image in images:
        cv2.imwrite(str(tmp_path / image['file_name']), np.full((40, 60, 3), 90, np.uint8))
    for setting, scores in dict(baseline=(0.1, 0.2), edge=(0.4, 0.3)).items():
        folder = tmp_path / f'runs/240/{setting}_lr0.1/seed0'
        folder.mkdir(parents=True)
        np.savez(folder / 'scores.npz', boundary_IoU_1px=np.array(scores), prob=np.full((2, 28, 28), 200, np.uint8))
    (tmp_path / 'features/val').mkdir(parents=True)
    np.save(tmp_path / 'features/val/targets.npy', np.ones((2, 28, 28), bool))
    arguments = [tmp_path, tmp_path / 'val.json', tmp_path, tmp_path / 'out/figure.png', '--min-size', 8]
    arguments += ['--settings', 'baseline', 'edge', '--objects', 2]

    def draw(*more):
        call('convergence.draw_masks', *arguments, *more)

    draw()
    assert cv2.imread(str(tmp_path / 'out/figure.png')).shape[0] > 400
    with pytest.raises(SystemExit, match='leaves 2 objects, 6 are to be drawn'):
        draw('--objects', 6)
    with pytest.raises(SystemExit, match='no runs/60/baseline_lr.*/seed0/scores.npz with masks'):
        draw('--budget', 60)
    with pytest.raises(SystemExit, match='--labels: expected 2 different names, got '):
        draw('--labels', 'x')
    np.save(tmp_path / 'features/val/targets.npy', np.zeros((2, 28, 28), bool))
    with pytest.raises(SystemExit, match='is not RoI'):
        draw()
