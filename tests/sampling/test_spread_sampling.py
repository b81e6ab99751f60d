from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_processes_that_share_a_model_sample_alone(tmp_path: Path) -> None:
    """Under FSDP2 each process draws what the whole model would, with other numbers of steps and none waiting."""
    worker = Path(__file__).with_name("spread_sampling.py")
    processes = [subprocess.Popen([sys.executable, str(worker), str(rank), str(tmp_path)]) for rank in range(2)]
    try:
        assert [process.wait(timeout=200) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    drawn = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for first, second, spread_first, spread_second in drawn:
        assert spread_first == first and spread_second == second and first != second
    assert drawn[0][0] != drawn[1][0]
