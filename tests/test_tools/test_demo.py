import json
import os
import runpy
import signal
import subprocess
import sys

import pytest
from pycocotools.coco import COCO

from mmdet_edge.analysis import Run
from mmdet_edge.datasets import make_shapes_dataset

from .conftest import ROOT


@pytest.fixture(scope='module')
def demo():
    """The names that tools/demo.py defines."""
    return runpy.run_path(str(ROOT / 'tools' / 'demo.py'))['draw_comparison'].__globals__


def test_comparison_of_predictions(demo, tmp_path, monkeypatch):
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
    monkeypatch.setitem(demo, 'draw_image', lambda axes, image, masks: drawn.append(len(list(masks))))
    run = Run(tmp_path, [{'step': i, 'loss_mask': 1 / i, 'coco/segm_mAP': i / 40} for i in range(1, 40)])
    demo['draw_comparison']({'a': run}, {'a': results}, coco, tmp_path / 'data' / 'val', tmp_path / 'x.png', 2)
    first, second = (len(coco.imgToAnns[i]) for i in (0, 1))
    assert drawn == [first, 0, second, second - 1]
    assert (tmp_path / 'x.png').read_bytes().startswith(b'\x89PNG')


def test_ctrl_c_prints_how_to_resume_after_the_tool_has_ended(tmp_path):
    slow = tmp_path / 'slow.py'
    slow.write_text(
        'import time\ntry:\n    print("started", flush=True)\n    time.sleep(60)\n    raise SystemExit(3)\n'
        'except KeyboardInterrupt:\n    time.sleep(1)\n    print("the tool has ended", flush=True)\n'
    )
    # A shell lets what it starts in the background ignore Ctrl-C.
    code = 'import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n'
    code += f'demo = runpy.run_path({str(ROOT / "tools" / "demo.py")!r})["run_tool"].__globals__\n'
    code += f'demo["make_shapes_dataset"] = lambda path: demo["run_tool"]({str(slow)!r})\n'
    code += 'sys.argv = ["demo.py"]; demo["run"]()'
    # A group of its own, to which a terminal sends Ctrl-C as a whole.
    process = subprocess.Popen(
        [sys.executable, '-c', code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if 'started' in line:
            os.killpg(process.pid, signal.SIGINT)
    assert process.wait() != 0
    assert [line for line in lines if line][-2:] == [
        'the tool has ended',
        'interrupted: `make demo` resumes where it was',
    ]
