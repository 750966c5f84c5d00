import json

import pytest


def train_line(step, **values):
    return {'loss': 1.0, **values, 'iter': step, 'step': step}


def write_log(work_dir, lines, start='20260101_000000'):
    path = work_dir / start / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


@pytest.fixture
def make_run(tmp_path):
    """Write what mmengine leaves of a training run whose curves are known; return its work dir."""

    def make(
        variant,
        seed,
        segm=None,
        loss_mask=None,
        end=400,
        time=1.0,
        evaluate_every=100,
        folder=None,
        config_seed=True,
        config='',
        **more,
    ):
        work_dir = tmp_path / (folder or f'{variant}_{seed}')
        lines = []
        for step in range(10, end + 1, 10):
            values = {} if loss_mask is None else {'loss_mask': loss_mask(step)}
            lines.append(train_line(step, time=time, **values))
            if segm is not None and step % evaluate_every == 0:
                evaluated = {key: value(step) for key, value in more.items()}
                # Two values that must not count: the time of an evaluation, and the AP of objects that are not there.
                lines.append({'coco/segm_mAP': segm(step), 'coco/bbox_mAP': -1.0, **evaluated, 'time': 9.0, 'step': 0})
        write_log(work_dir, lines)
        randomness = f'dict(deterministic=False, seed={seed})' if config_seed else 'dict()'
        (work_dir / f'{variant}.py').write_text(f"default_scope = 'mmdet'\nrandomness = {randomness}\n{config}")
        return work_dir

    return make
