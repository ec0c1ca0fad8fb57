#!/bin/bash
#SBATCH --job-name=pipeline
#SBATCH --cpus-per-task=1
#SBATCH --mem=1G
#SBATCH --time=00:30:00
#SBATCH --output=%x-%j.log

# A pipeline of one's own: scratch from Lacuna that outlives the process which asked for it.
# Nobody but the scheduler knows then that it is in use: `lacuna cache reap --ask-scheduler`.
set -euo pipefail
scratch=$(python - <<'PYTHON'
import lacuna
from lacuna.utils.cache import get_temp_dir

lacuna.load_config()
print(get_temp_dir("pipeline_"))
PYTHON
)
echo "$scratch"
touch "$scratch/intermediate.nii"
sleep "$1" # here other programs would work in it
