#!/bin/bash
# Workers of one study on machines that share a folder, by ssh alone:
#     ./workers.sh /shared/study "node1 node2" 4 env=goal study=goal trials=200
# starts four on each machine, which outlive this shell, and prints where they log. Run again, once these have
# ended, it goes on. `ssh node1 kill $(cat /shared/study/worker-node1-1.pid)` stops one, with a checkpoint; the
# others take up what it had.
set -eu
folder=$1 machines=$2 count=$3
shift 3

arguments=$(printf ' %q' "$@")
for machine in $machines; do
    for worker in $(seq "$count"); do
        name=worker-$machine-$worker
        ssh "$machine" "cd $(printf %q "$folder") && export OMP_NUM_THREADS=1 &&
            { nohup equipoise tune$arguments >> $name.log 2>&1 < /dev/null & echo \$! > $name.pid; }"
        echo "$folder/$name.log"
    done
done
