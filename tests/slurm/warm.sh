#!/bin/bash
#SBATCH --job-name=lacuna-warm
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=01:00:00
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

# Build what the tasks of an array will share.
exec lacuna cache warm --verbose "$@"
