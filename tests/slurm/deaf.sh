#!/bin/bash
#SBATCH --job-name=deaf
#SBATCH --cpus-per-task=1
#SBATCH --mem=1G
#SBATCH --time=00:30:00
#SBATCH --output=%x-%j.log

# A program that does not listen to SIGTERM, so that SLURM kills it: its scratch stays behind.
trap '' TERM
exec python - <<'PYTHON'
import time

import lacuna
from lacuna.utils.cache import temp_dir

lacuna.load_config()
with temp_dir("deaf_") as scratch:
    print(scratch, flush=True)
    time.sleep(600)
PYTHON
