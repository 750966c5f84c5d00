"""The gain by the shape of the objects."""

import json

import numpy as np
import pytest

TOOL = 'convergence.gain_by_shape'


def test_gain_by_shape(tmp_path, call):
    boxes, combs = np.zeros((2, 10, 8, 8), bool)
    boxes[:, 2:6, 2:6] = combs[:, 2:6, 1:8:2] = True
    (tmp_path / 'features/val').mkdir(parents=True)
    np.save(tmp_path / 'features/val/targets.npy', np.concatenate([boxes, combs]))
    for setting, ends in dict(baseline=(0.5, 0.2), edge=(0.5, 0.3)).items():
        for seed in (0, 1):
            folder = tmp_path / f'runs/240/{setting}_lr0.1/seed{seed}'
            folder.mkdir(parents=True)
            np.savez(folder / 'scores.npz', boundary_IoU_1px=np.repeat(ends, 10) + (seed - 0.5) / 100)
    figure = tmp_path / 'figure.png'
    arguments = (f'data={tmp_path}', '--bins', 2, '--settings')
    printed = call(TOOL, *arguments, 'edge', '--figure', figure)
    assert '| 1.00 to 1.00 | 10 | 0.500 | +0.0 % [+0.0, +0.0] |' in printed
    # Four bars of four pixels: perimeter 40, area 16.
    assert '| 6.25 to 6.25 | 10 | 0.200 | +50.0 % [+50.0, +50.0] |' in printed
    assert figure.is_file()
    sizes = tmp_path / 'val.json'
    # The jagged ones are the larger ones; in the file they come in another order than their images.
    annotations = [dict(id=i + 1, image_id=i // 10, area=(16, 100)[i // 10]) for i in range(20)]
    sizes.write_text(json.dumps(dict(images=[dict(id=0), dict(id=1)], annotations=annotations[::-1])))
    by_size = call(TOOL, *arguments, 'edge', '--sizes', sizes)
    assert '| 4 to 4 | 10 | 0.500 | +0.0 % [+0.0, +0.0] |' in by_size
    assert '| 10 to 10 | 10 | 0.200 | +50.0 % [+50.0, +50.0] |' in by_size
    with pytest.raises(SystemExit, match='error: .*no scores of none'):
        call(TOOL, *arguments, 'none')
