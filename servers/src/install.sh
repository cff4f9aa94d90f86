# shellcheck shell=sh
# Installs Debian or Ubuntu packages ("$@") so that no system service starts and no default
# database cluster is made. Run as root.
set -eu

policy=/usr/sbin/policy-rc.d
cluster=/etc/postgresql-common/createcluster.d/onsale.conf
made_policy=
made_folders=

clean_up() {
    rm -f "$cluster"
    if [ -n "$made_policy" ]; then rm -f "$policy"; fi
    for folder in $made_folders; do rmdir "$folder" 2>/dev/null || true; done
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

# Package scripts ask this program before they start a service. One that is there has its reasons.
if [ ! -e "$policy" ]; then
    made_policy=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

for folder in /etc/postgresql-common /etc/postgresql-common/createcluster.d; do
    if [ ! -d "$folder" ]; then
        mkdir "$folder"
        made_folders="$folder $made_folders"
    fi
done
echo 'create_main_cluster = false' >"$cluster"

export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
apt-get -o DPkg::Lock::Timeout=120 update
apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "$@"
