#!/usr/bin/env bash
# Install the programs of the distribution that signalbox uses: `programs.sh run|test [PYTHON]`.
#
# With everything there this takes milliseconds and asks nobody. Without root (and without sudo that needs no password), or without
# apt, it says what is missing and what that disables, and goes on: each tool says the same when it is used.
set -euo pipefail

kind=${1:-run}
python=${2:-python3}

# program | Debian package | what is disabled without it
needed() {
  cat <<'TABLE'
nmap|nmap|nmap, and discovery beyond ping and TCP connect
arp-scan|arp-scan|arp_scan: hosts of the own link that answer nothing else, and their MACs
tcpdump|tcpdump|captures
tshark|tshark|tshark and pyshark: decoded packets
ngrep|ngrep|ngrep: searching payloads
tcpflow|tcpflow|tcpflow: streams of a capture as files
masscan|masscan|masscan
netdiscover|netdiscover|netdiscover
traceroute|traceroute|traceroute
ip|iproute2|choosing the interface of a scan by route
ping|iputils-ping|ping where the kernel forbids unprivileged ICMP sockets
setpriv|util-linux|starting workers with the one privilege they need
unshare|util-linux|the embedded PostgreSQL as root
TABLE
  if [[ $kind == test ]]; then
    cat <<'TABLE'
nft|nftables|tests: firewalls in the lab
setcap|libcap2-bin|tests: programs with capabilities
chromium|chromium|tests: the UI in a browser
sshd|openssh-server|tests: a real SSH server
ssh|openssh-client|tests: a real SSH client
snmpd|snmpd|tests: a real SNMP agent
nginx|nginx-light|tests: a real web server
dnsmasq|dnsmasq-base|tests: a real name server
openssl|openssl|tests: TLS of every version
TABLE
  fi
}

# Every user's PATH should have these; on Debian a user's has not.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

has() {
  # Ubuntu has no chromium package that works without snapd; any Chromium or Chrome will do.
  if [[ $1 == chromium ]]; then
    command -v chromium || command -v chromium-browser || command -v google-chrome
  else
    command -v "$1"
  fi >/dev/null 2>&1
}

packages=()
add() {
  case " ${packages[*]-} " in *" $1 "*) ;; *) packages+=("$1") ;; esac
}
while IFS='|' read -r program package _; do
  has "$program" || add "$package"
done < <(needed)
# Debian's python3 has no ensurepip without its venv package. `make PYTHON=...` knows why it has another one.
if [[ ! -x .venv/bin/python ]] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  add "$(basename "$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])' 2>/dev/null || echo python3)")-venv"
fi
((${#packages[@]})) || exit 0

become=()
if ((EUID != 0)); then become=(sudo -n); fi
if ! command -v apt-get >/dev/null; then
  why="this is not Debian or Ubuntu (no apt-get)"
elif ((EUID != 0)) && ! sudo -n true 2>/dev/null; then
  why="that needs root"
else
  echo "Installing ${packages[*]} ..." >&2
  # Servers that tests start themselves must not run as services of this machine: Debian asks this file before it starts one.
  answer=/usr/sbin/policy-rc.d
  if [[ $kind == test && ! -e $answer ]]; then
    printf '#!/bin/sh\nexit 101\n' | "${become[@]}" tee "$answer" >/dev/null && "${become[@]}" chmod 755 "$answer"
    trap '"${become[@]}" rm -f "$answer"' EXIT
  fi
  install() {
    # wireshark-common and others ask questions; nobody is there to answer.
    "${become[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
  }
  # One by one if they do not install together: one name this release does not know must not cost the others.
  if ! install "${packages[@]}" 2>/dev/null; then
    "${become[@]}" apt-get update -qq >/dev/null || true
    if ! install "${packages[@]}" 2>/dev/null; then
      for package in "${packages[@]}"; do install "$package" || true; done
    fi
  fi
  hash -r
  why="apt-get did not provide it"
fi

missing=()
while IFS='|' read -r program package disabled; do
  if ! has "$program"; then
    ((${#missing[@]})) || echo "Not installed, because $why:" >&2
    printf '  %-10s disables: %s\n' "$program" "$disabled" >&2
    case " ${missing[*]-} " in *" $package "*) ;; *) missing+=("$package") ;; esac
  fi
done < <(needed)
if [[ ! -x .venv/bin/python ]] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  echo "Python's venv module is missing, and nothing works without it. As root: apt-get install python3-venv" >&2
  exit 1
fi
if ((${#missing[@]})); then
  echo "To have it all, as root on Debian or Ubuntu: apt-get install ${missing[*]}" >&2
fi
