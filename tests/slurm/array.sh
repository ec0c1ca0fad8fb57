#!/bin/bash
#SBATCH --job-name=lacuna
#SBATCH --array=0-15             # one task for each participant
#SBATCH --cpus-per-task=2        # Lacuna computes with as many threads
#SBATCH --mem=4G
#SBATCH --time=00:30:00
#SBATCH --requeue                # a task that is stopped may simply start again
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log

# Where the cache, the scratch and the tractogram are stands in lacuna.yaml.
set -euo pipefail
LC_ALL=C # sorts alike on every node, and as `lacuna status` counts
participants=(lesions/sub-*)
participant=$(basename "${participants[$SLURM_ARRAY_TASK_ID]}")
# exec: a task that is stopped gets the time to tidy up; after the shell's end it would have none.
# The whole dataset is not validated again by each task.
exec lacuna run snm lesions results participant --participant-label "$participant" \
    --skip-bids-validation --verbose "$@"
