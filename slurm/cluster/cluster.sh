#!/usr/bin/env bash
# A real SLURM on one Debian or Ubuntu machine, on the loopback only, to try `--on slurm:trial` without a cluster.
#
#   sudo slurm/cluster/cluster.sh up       install missing packages, start the daemons, wait until they answer
#   sudo slurm/cluster/cluster.sh down     stop the daemons that `up` started (by recorded pid) and delete all jobs
#
# Afterwards, as `up` prints:  export SLURM_CONF=.../slurm.conf   (without it, SLURM commands look for a real cluster)
#
# Environment: CLUSTER_DIR (default /tmp/mimbench-cluster), CLUSTER_NODES (3), CLUSTER_CPUS per node (4), CLUSTER_PORT, the
# first of twenty (17800), CLUSTER_ACCOUNTING (0; 1 starts slurmdbd and a private MariaDB), CLUSTER_EXTRA (more lines of
# slurm.conf).
set -euo pipefail

dir=${CLUSTER_DIR:-${TMPDIR:-/tmp}/mimbench-cluster}
nodes=${CLUSTER_NODES:-3} cpus=${CLUSTER_CPUS:-4} port=${CLUSTER_PORT:-17800} accounting=${CLUSTER_ACCOUNTING:-0}
export SLURM_CONF=$dir/etc/slurm.conf

fail() {
  echo "cluster.sh: $*" >&2
  for log in "$dir"/log/*; do [ -s "$log" ] && { echo "--- $log" >&2; tail -n 8 "$log" >&2; }; done
  exit 1
}

until_true() { # until_true SECONDS WHAT COMMAND...
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt "$end" ] || fail "timeout: $what"
    sleep 0.1
  done
}

runs() { # runs PID PROGRAM: the process is alive and is this program
  grep -qsx "$2" "/proc/$1/comm" && ! grep -qs '^State:.*Z' "/proc/$1/status"
}

pid_of() { # pid_of NAME PROGRAM: the pid in NAME.pid, if that process runs PROGRAM
  local pid
  pid=$(cat "$dir/run/$1.pid" 2>/dev/null) && [ -n "$pid" ] && runs "$pid" "$2" && echo "$pid"
}

install_missing() {
  local need=() lock
  exec {lock}>/run/mimbench-cluster.lock
  flock "$lock" # two clusters that start at once must not call apt at once; the second then finds everything installed
  command -v munged >/dev/null || need+=(munge)
  command -v slurmctld >/dev/null || need+=(slurmctld)
  command -v slurmd >/dev/null || need+=(slurmd)
  command -v sbatch >/dev/null || need+=(slurm-client)
  if [ "$accounting" = 1 ]; then
    command -v slurmdbd >/dev/null || need+=(slurmdbd slurm-wlm-mysql-plugin)
    command -v mariadbd >/dev/null || need+=(mariadb-server-core)
    command -v my_print_defaults >/dev/null || need+=(mariadb-client-core) # mariadb-install-db asks for it
  fi
  if [ ${#need[@]} != 0 ]; then
    echo "installing ${need[*]}"
    # RUNLEVEL=1 keeps the packages from starting services of their own
    { apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
      apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=120 "${need[@]}"; } >"$dir/log/apt.log" 2>&1 || fail "apt-get"
  fi
  exec {lock}>&- # the daemons must not inherit it
}

configure() {
  [ -s "$dir/etc/munge.key" ] || mungekey --create --keyfile="$dir/etc/munge.key"
  { echo "127.0.0.1 localhost controller"; for i in $(seq "$nodes"); do echo "127.0.0.1 n$i"; done; } >"$dir/etc/hosts"
  local storage="AccountingStorageType=accounting_storage/none"
  if [ "$accounting" = 1 ]; then # the password is the path of munge's socket
    storage="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 2))
AccountingStoragePass=$dir/run/munge.sock"
    (umask 077 && cat >"$dir/etc/slurmdbd.conf" <<END
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.sock
DbdHost=controller
DbdAddr=127.0.0.1
DbdPort=$((port + 2))
CommunicationParameters=NoInAddrAny
SlurmUser=root
PidFile=$dir/run/slurmdbd.pid
LogFile=$dir/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((port + 1))
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
END
    )
    cat >"$dir/etc/init.sql" <<'END'
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.%' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.%';
END
  fi
  # job numbers must not repeat those of an earlier cluster, which results still name: 100 per minute since the epoch.
  # one address and several ports: distinct loopback addresses break srun. No cgroups, no core binding: this is a trial
  cat >"$SLURM_CONF" <<END
ClusterName=trial
SlurmctldHost=controller(127.0.0.1)
SlurmctldPort=$port
FirstJobId=$(($(date +%s) / 60 % 600000 * 100 + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/run/munge.sock,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdPidFile=$dir/run/%n.pid
SlurmdLogFile=$dir/log/%n.log
SlurmdSpoolDir=$dir/spool/%n
StateSaveLocation=$dir/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=1000
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,bf_resolution=1
KillWait=5
SlurmdTimeout=10
MinJobAge=300
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
$storage
$(for i in $(seq "$nodes"); do
    echo "NodeName=n$i NodeHostname=n$i NodeAddr=127.0.0.1 Port=$((port + 5 + i)) CPUs=$cpus RealMemory=16000"
  done)
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=15
${CLUSTER_EXTRA:-}
END
}

# Each daemon has its own host name and /etc/hosts, so that gethostname() is n1, n2, ... in the jobs.
as_host() {
  local name=$1
  shift
  unshare --uts --mount --propagation private sh -c \
    'echo "$1" >/proc/sys/kernel/hostname; mount --bind "$2" /etc/hosts; shift 2; exec "$@"' sh "$name" "$dir/etc/hosts" "$@"
}

start_accounting() {
  local -x TMPDIR=$dir/run # two databases created at once would mix up their temporary tables, which have the same name
  if [ ! -d "$dir/db/mysql" ]; then
    mariadb-install-db --no-defaults --user=root --datadir="$dir/db" --skip-test-db --auth-root-authentication-method=normal \
      >"$dir/log/mariadb-install.log" 2>&1 || fail "mariadb-install-db"
  fi
  pid_of mariadbd mariadbd >/dev/null || {
    setsid mariadbd --no-defaults --user=root --datadir="$dir/db" --bind-address=127.0.0.1 --port=$((port + 1)) \
      --socket="$dir/run/mariadb.sock" --pid-file="$dir/run/mariadbd.pid" --init-file="$dir/etc/init.sql" \
      --skip-name-resolve --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 --skip-log-bin \
      --innodb-flush-log-at-trx-commit=0 </dev/null >"$dir/log/mariadbd.log" 2>&1 &
    until_true 30 mariadbd bash -c "exec 3<>/dev/tcp/127.0.0.1/$((port + 1))"
  }
  pid_of slurmdbd slurmdbd >/dev/null || as_host controller slurmdbd || fail slurmdbd
  until_true 30 slurmdbd sacctmgr -n list cluster
}

up() {
  [ "$(id -u)" = 0 ] || fail "needs root"
  mkdir -p "$dir"/{etc,run,log,spool,state}
  chmod 755 "$dir" "$dir"/{etc,run,log,spool,state}
  install_missing
  configure
  pid_of munged munged >/dev/null || munged --key-file="$dir/etc/munge.key" --socket="$dir/run/munge.sock" --force \
    --pid-file="$dir/run/munged.pid" --log-file="$dir/log/munged.log" --seed-file="$dir/run/munged.seed" \
    2>>"$dir/log/munged.err" || fail munged
  [ "$accounting" = 1 ] && start_accounting
  controller
  for i in $(seq "$nodes"); do node "n$i"; done
  until_true 45 "all nodes" bash -c "[ \$(sinfo -h -N -p main -o %T | grep -cxE 'idle|mixed|allocated') = $nodes ]"
  echo "export SLURM_CONF=$SLURM_CONF"
}

controller() { # start it, also after it died
  pid_of slurmctld slurmctld >/dev/null || as_host controller slurmctld -f "$SLURM_CONF" >>"$dir/log/slurmctld.err" 2>&1 || fail slurmctld
  until_true 30 slurmctld bash -c "scontrol ping | grep -q 'is UP'"
}

node() { # start one node, also after it died
  pid_of "$1" slurmd >/dev/null || as_host "$1" slurmd -f "$SLURM_CONF" -N "$1" >>"$dir/log/$1.err" 2>&1 || fail "slurmd $1"
}

stop() { # stop NAME:PROGRAM...: signal all, then wait for each
  local each pid
  local -A pids=()
  for each; do
    pid=$(pid_of "${each%:*}" "${each#*:}") || continue
    pids[$each]=$pid
    kill "$pid" 2>/dev/null || true
  done
  for each in "${!pids[@]}"; do
    for _ in $(seq 100); do runs "${pids[$each]}" "${each#*:}" || break; sleep 0.1; done
    runs "${pids[$each]}" "${each#*:}" && kill -KILL "${pids[$each]}"
    rm -f "$dir/run/${each%:*}.pid"
  done
}

down() {
  if pid_of slurmctld slurmctld >/dev/null; then # all jobs of this private cluster are trials
    timeout 10 squeue -h -o %A 2>/dev/null | sort -u | xargs -r timeout 20 scancel 2>/dev/null || true
    for _ in $(seq 75); do [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break; sleep 0.2; done
  fi
  local file daemons=(slurmctld:slurmctld)
  for file in "$dir"/run/n*.pid; do [ -e "$file" ] && daemons+=("$(basename "$file" .pid):slurmd"); done
  stop "${daemons[@]}"
  stop slurmdbd:slurmdbd
  stop mariadbd:mariadbd munged:munged
  rm -rf "$dir"/{state,spool,run,db,etc}
}

case ${1:-} in
  up) up ;;
  down) down ;;
  node) node "$2" ;;
  controller) controller ;;
  *) sed -n '2,12p' "$0" | sed 's/^# \{0,1\}//' >&2; exit 2 ;;
esac
