#!/usr/bin/env bash
# Installs the Slurm that tests/slurm starts for itself: controller, node daemon, commands, keys. Starts no service.
set -u

say() { echo "slurm-deps: $*"; }

missing=()
for program in slurmctld slurmd munged sbatch srun scontrol scancel; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "$program" > /dev/null || missing+=("$program")
done
if ((${#missing[@]} == 0)); then
    say "Slurm is here: $(PATH="$PATH:/usr/sbin" slurmctld -V)"
    exit 0
fi

if ! command -v apt-get > /dev/null; then
    say "NOT INSTALLED: ${missing[*]}; there is no apt-get here, install Slurm and munge as your system does"
    exit 1
fi
as_root=()
if ((EUID != 0)); then
    if ! sudo -n true 2> /dev/null; then
        say "NOT INSTALLED: ${missing[*]}; installing them needs root: sudo apt-get install slurmctld slurmd slurm-client munge"
        exit 1
    fi
    as_root=(sudo -n)
fi
export DEBIAN_FRONTEND=noninteractive
if ! "${as_root[@]}" apt-get update -qq ||
    ! "${as_root[@]}" apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge; then
    say "NOT INSTALLED: ${missing[*]}; apt-get failed, see above"
    exit 1
fi
say "installed: $(PATH="$PATH:/usr/sbin" slurmctld -V)"
