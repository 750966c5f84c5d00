import json
from types import SimpleNamespace

import pytest
from mmengine import dist
from mmengine.hooks import LoggerHook


@pytest.mark.parametrize('rank', [0, 1])
def test_rank_0_alone_writes_the_metrics_of_a_test(rank, tmp_path, monkeypatch):
    monkeypatch.setattr(dist.utils, 'get_rank', lambda group=None: rank)
    values = dict(segm_mAP=0.25)
    runner = SimpleNamespace(
        log_processor=SimpleNamespace(get_log_after_epoch=lambda *args, **kwargs: (values, 'text')),
        logger=SimpleNamespace(info=print),
        test_dataloader=[],
        log_dir=str(tmp_path),
    )
    hook = LoggerHook()
    hook.json_log_path = 'metrics.json'
    hook.after_test_epoch(runner, values)
    assert [json.loads(path.read_text()) for path in tmp_path.iterdir()] == [values][rank:]
