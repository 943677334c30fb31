#!/bin/sh
# Puts mi on a Linux box with systemd: the program, its user, its unit and its configuration. May be run again at any time;
# what somebody has configured stays. See --help.
set -eu

usage() {
    cat <<'USAGE'
Usage: install.sh [OPTIONS]

  --binary FILE    The program [default: target/release/mi of this repository, or mi beside this script]
  --sha256 HEX     What its SHA-256 must be; anything else is not installed
  --no-start       Do not start the service, nor start it anew
  --root DIR       Put all files below DIR, make no user and start nothing: for images and packages
  --uninstall      Stop the service and remove program and unit; data, configuration and user stay
  --purge          With --uninstall: remove these, too. Agents' work and all keys are gone then
  --help           This text

Installs /usr/local/bin/mi and /etc/systemd/system/mi.service, makes the user mi, /etc/mi/mi.env and /var/lib/mi.
USAGE
}

fail() {
    printf 'install.sh: %s\n' "$1" >&2
    exit 1
}

say() {
    printf '%s\n' "$1"
}

here=$(cd "$(dirname "$0")" && pwd)
binary='' sha256='' root='' start=yes uninstall='' purge=''
while [ $# -gt 0 ]; do
    case $1 in
        --binary | --sha256 | --root)
            [ $# -ge 2 ] && [ -n "$2" ] || fail "$1 wants a value; see --help"
            case $1 in
                --binary) binary=$2 ;;
                --sha256) sha256=$2 ;;
                --root) root=$2 ;;
            esac
            shift
            ;;
        --no-start) start='' ;;
        --uninstall) uninstall=yes ;;
        --purge) purge=yes ;;
        --help | -h)
            usage
            exit 0
            ;;
        *) fail "there is no option $1; see --help" ;;
    esac
    shift
done

program=$root/usr/local/bin/mi
unit=$root/etc/systemd/system/mi.service
configuration=$root/etc/mi
data=$root/var/lib/mi

[ -z "$purge" ] || [ -n "$uninstall" ] || fail "--purge is for --uninstall; see --help"
if [ -z "$root" ]; then
    [ "$(id -u)" = 0 ] || fail "this has to be run by root, such as by: sudo $0"
    [ -d /run/systemd/system ] || fail "systemd does not run here; deploy/README.md has other ways to run mi, and --root DIR lays down files"
fi

# What systemd does, where it runs.
control() {
    [ -n "$root" ] || systemctl "$@"
}

if [ -n "$uninstall" ]; then
    if [ -z "$root" ] && [ -e "$unit" ]; then
        systemctl disable --now mi.service
    fi
    rm -f "$program" "$unit"
    control daemon-reload
    if [ -n "$purge" ]; then
        rm -rf "$configuration" "$data"
        if [ -z "$root" ] && id mi >/dev/null 2>&1; then
            userdel mi
        fi
        say "mi is gone, with all its data"
    else
        say "mi is gone; $configuration, $data and the user mi stay (--uninstall --purge removes them)"
    fi
    exit 0
fi

if [ -z "$binary" ]; then
    for found in "$here/../target/release/mi" "$here/mi"; do
        [ -f "$found" ] && binary=$found && break
    done
    [ -n "$binary" ] || fail "there is no program: build it (cargo build --release -p mi-cli), or name it with --binary FILE"
fi
[ -f "$binary" ] || fail "there is no file $binary"
[ -f "$here/systemd/mi.service" ] || fail "there is no $here/systemd/mi.service: run this script where the repository has it"

# Copied first: what is checked is what is installed.
umask 022
mkdir -p "$(dirname "$program")"
fresh=$(mktemp "$program.XXXXXX")
trap 'rm -f "$fresh"' EXIT
cp "$binary" "$fresh"
chmod 0755 "$fresh"
if [ -n "$sha256" ]; then
    actual=$(sha256sum "$fresh" | cut -d ' ' -f 1)
    wanted=$(printf '%s' "$sha256" | tr 'A-F' 'a-f')
    [ "$actual" = "$wanted" ] || fail "$binary is not what it should be: its SHA-256 is $actual, not $wanted; nothing was installed"
fi
version=$("$fresh" --version 2>/dev/null) || fail "$binary does not run on this machine: is it built for $(uname -m)?"

if [ -z "$root" ] && ! id mi >/dev/null 2>&1; then
    useradd --system --user-group --home-dir /var/lib/mi --no-create-home --shell /usr/sbin/nologin --comment mi mi
    say "made the user mi"
fi

changed=''
if cmp -s "$fresh" "$program"; then
    say "$program is $version already"
else
    # Replaced as a whole: the old one may be running.
    mv -f "$fresh" "$program"
    changed=yes
    say "installed $program, $version"
fi
mkdir -p "$(dirname "$unit")"
if ! cmp -s "$here/systemd/mi.service" "$unit"; then
    cp "$here/systemd/mi.service" "$unit"
    chmod 0644 "$unit"
    changed=yes
    say "installed $unit"
fi
mkdir -p "$configuration"
chmod 0750 "$configuration"
if [ ! -e "$configuration/mi.env" ]; then
    (
        umask 077
        cat >"$configuration/mi.env" <<'ENV'
# Settings of mi.service. `mi up --help` lists flags and variables; `systemctl restart mi` makes changes hold.
#
# To serve other machines, with a certificate that the group mi may read:
#MI_ARGS=--listen=0.0.0.0:7400 --tls-cert=/etc/mi/tls.crt --tls-key=/etc/mi/tls.key --public-url=https://mi.example:7400
#
# Postgres instead of SQLite: its URL in a file that the group mi may read (root:mi, 0640).
#MI_DATABASE_FILE=/etc/mi/database-url
ENV
    )
    say "made $configuration/mi.env"
fi
if [ -z "$root" ]; then
    chown root:mi "$configuration"
fi

control daemon-reload
if [ -z "$start" ] || [ -n "$root" ]; then
    say "not started"
    exit 0
fi
systemctl enable --quiet mi.service
if [ -n "$changed" ]; then
    systemctl restart mi.service
else
    systemctl start mi.service
fi
say "mi runs: systemctl status mi"
say "the administrator's key is in /var/lib/mi/data/admin.key; log in by"
say "  sudo cat /var/lib/mi/data/admin.key | mi login"
