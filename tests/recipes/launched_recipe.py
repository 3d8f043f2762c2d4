"""Runs a script as its launcher would, then notes how many processes there were.

accelerate launch --config_file PROFILE launched_recipe.py WORK SCRIPT ARGUMENTS...
"""

import runpy
import sys
from pathlib import Path

from accelerate import PartialState

if __name__ == "__main__":
    work, script, *arguments = sys.argv[1:]
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")
    state = PartialState()
    Path(work, f"rank{state.process_index}").write_text(f"{state.num_processes} {state.distributed_type.value}")
    state.destroy_process_group()
