#!/bin/bash
#SBATCH --job-name=lacuna-settings
#SBATCH --mem=1G
#SBATCH --time=00:05:00
#SBATCH --output=%x-%j.log

# Which settings apply in a job, and who said so.
exec lacuna config show --json
