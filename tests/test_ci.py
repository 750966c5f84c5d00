"""The public CI and the hooks before a commit do what make lint and make test do."""

import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_workflow_runs_what_counts():
    workflow = yaml.safe_load((ROOT / '.github' / 'workflows' / 'ci.yml').read_text())
    # YAML 1.1 reads the key `on` as true.
    assert {'push', 'pull_request'} == set(workflow[True])
    job = workflow['jobs']['test']
    assert [step['run'] for step in job['steps'] if 'run' in step] == ['.ci/run']
    # The first and the last Python that is promised.
    versions = job['strategy']['matrix']['python-version']
    promised = re.search(r'(3\.\d+) to (3\.\d+)', (ROOT / 'docs' / 'install.md').read_text()).groups()
    assert (versions[0], versions[-1]) == promised
    assert f'python_requires = >={versions[0]}' in (ROOT / 'setup.cfg').read_text()


def test_hooks_run_the_lint_tools_of_the_environment():
    hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos'][0]['hooks']
    recipe = re.search(r'^lint:.*\n((?:\t.*\n)+)', (ROOT / 'Makefile').read_text(), re.MULTILINE)[1]
    tools = {re.match(r'ruff \w+|\S+', line.strip())[0] for line in recipe.splitlines()}
    assert {re.match(r'ruff \w+|\S+', hook['entry'])[0] for hook in hooks} == tools
    assert all(hook['language'] == 'system' for hook in hooks)
    pinned = (ROOT / 'constraints.txt').read_text()
    assert all(f'\n{tool.split()[0]}==' in pinned for tool in tools)


def test_make_names_its_targets():
    printed = subprocess.run(['make', 'help'], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    phony = re.search(r'^\.PHONY: (.*)$', (ROOT / 'Makefile').read_text(), re.MULTILINE)[1].split()
    # make lint runs the words.
    assert re.findall(r'^make (\w+)', printed, re.MULTILINE) == [
        name for name in phony if name not in ('help', 'words')
    ]
