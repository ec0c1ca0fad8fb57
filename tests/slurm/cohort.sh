#!/bin/bash
#SBATCH --job-name=lacuna-cohort
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=00:30:00
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

# All participants in one job: for a small cohort.
set -euo pipefail
exec lacuna run snm lesions "${1:-results}" participant --verbose "${@:2}"
