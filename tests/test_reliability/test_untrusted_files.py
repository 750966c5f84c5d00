"""A checkpoint is data: anything but numbers, text and containers is refused, and no code in it is run."""

import ast
import functools
import http.server
import logging
import pickle
import re
import threading
from types import SimpleNamespace

import mmengine
import pytest
import torch
import yaml
from mmdet.apis import init_detector
from mmdet.registry import HOOKS
from mmengine.config import Config
from mmengine.fileio.handlers import YamlHandler
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner.checkpoint import CheckpointLoader

from mmdet_edge.engine.launch import build_runner, edit_config, read_config

from . import untrusted
from .conftest import EDGE, ROOT

pytestmark = pytest.mark.skipif(torch.__version__ < '2.6', reason='torch < 2.6 runs the code of a checkpoint')

REFUSED = (pickle.UnpicklingError, RuntimeError, TypeError, ValueError)


@pytest.fixture(scope='module')
def code_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('untrusted')
    return untrusted.write_code_checkpoints(folder, folder / 'marker'), folder / 'marker'


def load(path):
    return CheckpointLoader.load_checkpoint(str(path), 'cpu', logger='silent')


def test_the_corpus_would_run(code_files):
    """Each file does make the marker where weights_only is off: the refusals below are not for another reason."""
    files, marker = code_files
    assert len(files) >= 20
    for name, path in files.items():
        assert not marker.exists()
        try:
            if name == 'plain_pickle':
                pickle.loads(path.read_bytes())
            else:
                torch.load(path, weights_only=False)
        except Exception as error:  # What some of them return does not fit into a checkpoint.
            print(name, error)
        assert marker.exists(), name
        marker.unlink()


def test_code_is_refused(code_files):
    files, marker = code_files
    for name, path in files.items():
        with pytest.raises(REFUSED):
            load(path)
        assert not marker.exists(), name


@pytest.mark.parametrize('name', untrusted.memory_tricks())
def test_misuse_of_what_mmengine_needs_is_refused(name, tmp_path):
    untrusted.write_zip(untrusted.pickled(untrusted.checkpoint(untrusted.memory_tricks()[name])), tmp_path / 'x.pth')
    statistics = dict(HistoryBuffer()._statistics_methods)
    with pytest.raises(REFUSED):
        load(tmp_path / 'x.pth')
    assert HistoryBuffer._statistics_methods == statistics


def test_the_honest_form_of_the_tricks_loads(tmp_path):
    untrusted.write_zip(untrusted.pickled(untrusted.checkpoint(dict(loss=untrusted.history()))), tmp_path / 'x.pth')
    history = load(tmp_path / 'x.pth')['message_hub']['log_scalars']['loss']
    assert type(history) is HistoryBuffer and history.data[0].tolist() == [1, 2]


def command_lines(shapes, bad, good):
    """Everything in tools/ that reads a checkpoint."""
    data = ('--cfg-options', f'data_root={shapes}')
    compare = 'analysis_tools/compare_predictions.py'
    return [
        ('train.py', EDGE, *data, f'load_from={bad}'),
        ('train.py', EDGE, '--resume', bad, *data),
        ('test.py', EDGE, bad, *data),
        ('analysis_tools/eval_mask_branch.py', EDGE, bad, *data),
        (compare, EDGE, bad, EDGE, good, *data),
        (compare, EDGE, good, EDGE, bad, *data),
        ('model_converters/to_plain_mask_rcnn.py', EDGE, bad, 'plain'),
        ('model_converters/mask_branch_to_onnx.py', EDGE, bad, 'x.onnx'),
    ]


def test_no_tool_that_reads_a_checkpoint_is_left_out():
    listed = {command[0] for command in command_lines('data', 'bad', 'good')}
    found = set()
    for path in (ROOT / 'tools').rglob('*.py'):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, 'attr', '') == 'add_argument':
                words = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant)]
                if re.search('checkpoint|weights|[.]pth', f'{words}', re.IGNORECASE):
                    found.add(str(path.relative_to(ROOT / 'tools')))
    assert found == listed


@pytest.mark.parametrize('name', ['os.system', 'torch_legacy', 'tar'])
def test_every_tool_refuses(name, code_files, error_of, shapes, checkpoint, tmp_path, monkeypatch):
    files, marker = code_files
    monkeypatch.chdir(tmp_path)
    for command in command_lines(shapes, files[name], checkpoint):
        message = error_of(*command)
        assert re.search('could run code; nothing of it was run|cannot be loaded', message) and '\n' not in message
        assert str(files[name]) in message and not marker.exists()
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_pretrained_backbone_is_not_trusted_either(code_files, error_of, shapes, tmp_path):
    files, marker = code_files
    config = tmp_path / 'mine.py'
    init_cfg = dict(_delete_=True, type='Pretrained', checkpoint=str(files['exec']))
    config.write_text(f'_base_ = {str(EDGE)!r}\nmodel = dict(backbone=dict(init_cfg={init_cfg}))\n')
    assert 'could run code' in error_of('train.py', config, '--cfg-options', f'data_root={shapes}')
    assert not marker.exists()


@pytest.mark.parametrize('name', ['eval', 'torch_legacy'])
def test_init_detector_refuses(name, code_files):
    files, marker = code_files
    with pytest.raises(REFUSED):
        init_detector(str(EDGE), str(files[name]), device='cpu')
    assert not marker.exists()


@pytest.fixture
def address(code_files, tmp_path, monkeypatch):
    """A server with the untrusted files and a valid one."""
    files, _ = code_files
    folder = files['eval'].parent
    torch.save(dict(state_dict=dict(weight=torch.ones(2))), folder / 'good.pth')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('no_proxy', '*')
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize('name', ['os.system', 'torch_legacy'])
def test_what_comes_from_an_address_is_not_trusted_either(name, code_files, address):
    # torch's download function would: it switches weights_only off.
    assert load(f'{address}/good.pth')['state_dict']['weight'].sum() == 2
    with pytest.raises(REFUSED):
        load(f'{address}/{name}.pth')
    assert not code_files[1].exists()


def test_the_config_text_in_a_checkpoint_is_not_run(weights, shapes, tmp_path):
    marker, path = tmp_path / 'marker', tmp_path / 'iter_1.pth'
    text = untrusted.touch(marker)
    meta = dict(epoch=0, iter=1, config=text)
    torch.save(dict(state_dict=weights, meta=meta, message_hub=MessageHub('untrusted').state_dict()), path)
    runner = build_runner(edit_config(read_config(EDGE), dict(data_root=str(shapes)), str(tmp_path / 'run')))
    runner.resume(str(path))
    assert runner.iter == 1 and not marker.exists()
    # What mmengine's resume would have done with it.
    Config.fromstring(text, '.py')
    assert marker.exists()


@pytest.mark.parametrize('hook', ['CheckpointHook', 'AtomicCheckpointHook'])
@pytest.mark.parametrize(
    ('path', 'kept'),
    [
        ('{run}/best_coco_segm_mAP_iter_300.pth', True),
        ('run/best_coco_bbox_mAP_epoch_12.pth', True),
        (None, False),
        (7, False),
        ('/etc/passwd', False),
        ('{run}', False),
        ('{run}/iter_300.pth', False),
        ('{run}/best_of.pth/..', False),
        ('{run}/best_of.pth/mine.txt', False),
        ('{run}/../best_of_another_run.pth', False),
        ('best_coco_segm_mAP_iter_300.pth', False),
        ('/home/me/best_thesis.pth', False),
    ],
)
def test_a_resume_removes_no_file_that_a_checkpoint_names(path, kept, hook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = path.format(run=tmp_path / 'run') if isinstance(path, str) else path
    hub = MessageHub('untrusted')
    hub.runtime_info.update(dict.fromkeys(('best_ckpt', 'best_ckpt_a', 'best_ckpt_b'), path), keep_ckpt_ids=['../x'])
    logger = logging.getLogger('untrusted')
    runner = SimpleNamespace(work_dir=str(tmp_path / 'run'), message_hub=hub, logger=logger, iter=0, max_iters=1)
    one, two = (
        HOOKS.build(dict(type=hook, save_best=best, rule='greater', max_keep_ckpts=1)) for best in ('a', ['a', 'b'])
    )
    one.before_train(runner)
    two.before_train(runner)
    assert one.best_ckpt_path == (path if kept else None)
    assert two.best_ckpt_path_dict == dict.fromkeys('ab', path if kept else None)
    assert not one.keep_ckpt_ids


def test_an_array_is_filled_once(tmp_path):
    dtype = untrusted.Call(untrusted.DTYPE, 'f8', False, True)
    once = untrusted.pickled(untrusted.array(dtype, b'A' * 8))
    twice = once[:-1] + untrusted.pickled((1, (1,), dtype, False, b'B' * 8))[2:-1] + pickle.BUILD + pickle.STOP
    untrusted.write_zip(once, tmp_path / 'once.pth')
    assert load(tmp_path / 'once.pth').shape == (1,)
    untrusted.write_zip(twice, tmp_path / 'twice.pth')
    with pytest.raises(REFUSED, match='once'):
        load(tmp_path / 'twice.pth')


UNSAFE_MODULES = {'pickle', 'cPickle', '_pickle', 'cloudpickle', 'dill', 'joblib', 'marshal', 'shelve'}
UNSAFE_NAMES = {'read_pickle', 'popen', 'system', 'unsafe_load', 'full_load', 'Loader', 'CLoader', 'FullLoader'}


def trusts(node):
    """Return whether a syntax node unpickles a file, or executes a text."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        names = {(alias.name, alias.asname) for alias in node.names}
        if isinstance(node, ast.Import):
            # The exception alone is needed of pickle: see below.
            return bool({name.split('.')[0] for name, _ in names} & UNSAFE_MODULES) and names != {('pickle', None)}
        module = (node.module or '').split('.')[0]
        if module in UNSAFE_MODULES:
            return names != {('UnpicklingError', None)}
        unsafe = UNSAFE_NAMES | ({'load'} if module in ('mmengine', 'torch', 'yaml') else set())
        return any(name in unsafe for name, _ in names)
    if isinstance(node, ast.Attribute):
        owner = getattr(node.value, 'id', '')
        return (owner == 'pickle' and node.attr != 'UnpicklingError') or node.attr in UNSAFE_NAMES
    if not isinstance(node, ast.Call):
        return False
    options = {option.arg: getattr(option.value, 'value', None) for option in node.keywords}
    if options.get('allow_pickle') or options.get('shell') or getattr(node.func, 'id', '') in ('eval', 'exec'):
        return True
    called = ast.unparse(node.func).split('.')
    if called == ['torch', 'load'] or options.get('weights_only') is False:
        return options.get('weights_only') is not True
    if called[0] == 'yaml':
        return called[-1] in ('load', 'load_all')
    # mmengine's unpickles what has the name of a pickle file.
    return called in (['mmengine', 'load'], ['fileio', 'load'], ['mmengine', 'fileio', 'load'])


@pytest.mark.parametrize(
    'line',
    [
        'import pickle; pickle.load(file)',
        'pickle.Unpickler(file).load()',
        'import pickle as p',
        'from pickle import load',
        'from pickle import UnpicklingError, Unpickler',
        'import joblib',
        'pandas.read_pickle(path)',
        'mmengine.load("x.pkl")',
        'from mmengine.fileio import load',
        'from yaml import load',
        'yaml.load(text, Loader=yaml.SafeLoader)',
        'yaml.unsafe_load(text)',
        'from yaml import CLoader',
        'torch.load(path)',
        'torch.load(path, weights_only=flag)',
        'torch.load(path, weights_only=False)',
        'load_url(address, weights_only=False)',
        'from torch import load',
        'numpy.load(path, allow_pickle=True)',
        'eval(text)',
        'os.system(text)',
        'from os import popen',
        'subprocess.run(text, shell=True)',
    ],
)
def test_trust_is_found(line):
    assert any(map(trusts, ast.walk(ast.parse(line))))


def test_nothing_else_in_the_tree_reads_files_with_trust():
    folders = ('mmdet_edge', 'tools', 'configs', 'projects')
    files = [path for folder in folders for path in (ROOT / folder).rglob('*.py')]
    assert len(files) > 50
    found = [
        f'{path.relative_to(ROOT)}: {ast.unparse(node)}'
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if trusts(node)
    ]
    assert found == []


YAML_TRICKS = {
    'function': '!!python/object/apply:os.system ["touch {marker}"]',
    'program': '!!python/object/apply:subprocess.check_call [["touch", {marker}]]',
    'class': '!!python/object/new:pathlib.Path [x]',
    'name': '!!python/name:os.system',
    'module': '!!python/module:antigravity',
    'another tag': '!shell touch {marker}',
}


@pytest.mark.parametrize('ending', ['.yaml', '.yml'])
@pytest.mark.parametrize('trick', YAML_TRICKS)
def test_yaml_runs_nothing(trick, ending, error_of, tmp_path):
    marker, config, child = tmp_path / 'marker', tmp_path / f'bad{ending}', tmp_path / 'child.py'
    config.write_text(f'model: {YAML_TRICKS[trick].format(marker=marker)}\n')
    child.write_text(f"_base_ = './bad{ending}'\n")
    for path in (config, child):
        message = error_of('train.py', path, '--check')
        assert f'{path} cannot be read: ConstructorError' in message and '\n' not in message
    with pytest.raises(yaml.YAMLError):
        mmengine.load(str(config))
    assert not marker.exists()
    if 'touch' in YAML_TRICKS[trick] and 'python' in YAML_TRICKS[trick]:
        # What mmengine's own handler does with it.
        YamlHandler().load_from_path(str(config))
        assert marker.exists()


def test_a_config_that_mmengine_wrote_as_yaml_is_read(tmp_path):
    cfg = Config.fromfile(EDGE)
    cfg.pairs = [(1, 2), dict(nested=((3,), [4]))]
    cfg.dump(str(tmp_path / 'x.yaml'))
    assert '!!python/tuple' in (tmp_path / 'x.yaml').read_text()
    read = edit_config(read_config(tmp_path / 'x.yaml'), work_dir='x')
    assert read.to_dict() == dict(cfg.to_dict(), launcher='none', work_dir='x')
