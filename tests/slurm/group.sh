#!/bin/bash
#SBATCH --job-name=lacuna-group
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=01:00:00
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

# Put the results of all participants together; the log names those that are left out.
exec lacuna run snm lesions results group "$@"
