import os
import signal
import subprocess
import sys

import pytest

from .conftest import ROOT


@pytest.mark.slow
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
