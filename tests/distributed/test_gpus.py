"""GPUs that a discovery script makes up: each rank is given the addresses of its own task."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from sessions import session
from spark_dl import HorovodLauncher

def look():
    import os
    return os.environ["CUDA_VISIBLE_DEVICES"], os.environ["TF_FORCE_GPU_ALLOW_GROWTH"]

script = sys.argv[1]
settings = {
    "worker_resource_gpu_amount": "2", "worker_resource_gpu_discoveryScript": script,
    "executor_resource_gpu_amount": "2", "executor_resource_gpu_discoveryScript": script,
    "task_resource_gpu_amount": "1",
}
with session("local-cluster[1,2,1024]", **settings) as spark:
    print(HorovodLauncher(2).run(look))
"""


def test_each_rank_sees_the_gpu_of_its_task_and_no_other(tmp_path: Path) -> None:
    script = tmp_path / "gpus.sh"
    script.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["3", "5"]}'\n""")
    script.chmod(0o755)
    command = [sys.executable, "-c", PROGRAM, str(script)]
    tests = Path(__file__).parent.parent
    ran = subprocess.run(command, cwd=tests, capture_output=True, text=True, check=False)
    assert "[('3', 'true'), ('5', 'true')]" in ran.stdout or "[('5', 'true'), ('3', 'true')]" in ran.stdout, ran.stderr
