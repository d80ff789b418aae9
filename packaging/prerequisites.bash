# Sourced by packaging/quickstart, Tests/run and .ci/run: what a build needs, and how it is installed.
# Each function prints what is missing and how to go on, and returns non-zero when it cannot be helped here.

# The Debian packages (also Ubuntu's names) that building needs.
# shellcheck disable=SC2034 # used by those who source this
build_packages=(ca-certificates g++ git libc6-dev libcurl4-openssl-dev libsqlite3-dev libssl-dev pkg-config)

# What Swift's own programs load, on a machine that has nothing else.
toolchain_packages=(libcurl4-openssl-dev libncurses6 libsqlite3-dev libxml2-dev zlib1g-dev)

# The first release of Swift that builds this package.
required_swift=6.2

# Nothing when Swift cannot run.
swift_version() {
    swift --version 2>/dev/null </dev/null | sed -n 's/.*Swift version \([0-9][0-9.]*\).*/\1/p' | head -n 1
}

# Says where Swift is to be had unless `swift` of a sufficient version is on the PATH.
require_swift() {
    local version
    if ! command -v swift >/dev/null 2>&1; then
        cat >&2 <<MESSAGE
Swift is missing: no 'swift' on the PATH. safebackup is built with Swift $required_swift or newer.
Install it as https://www.swift.org/install/linux/ says, open a new shell, and run this command again.
MESSAGE
        return 1
    fi
    version=$(swift_version)
    if [[ -z $version ]]; then
        install_packages "${toolchain_packages[@]}" || return 1
        version=$(swift_version)
    fi
    if [[ -z $version ]]; then
        echo "'swift --version' does not answer. Is the tool chain at $(command -v swift) complete?" >&2
        return 1
    fi
    if [[ $(printf '%s\n' "$required_swift" "$version" | sort -V | head -n 1) != "$required_swift" ]]; then
        echo "Swift $version is too old: $required_swift or newer is needed. See https://www.swift.org/install/linux/" >&2
        return 1
    fi
}

# Whether the tool chain has the Swift standard library for static linking: a smaller process that starts faster.
has_static_library() {
    local shared
    shared=$(swift -print-target-info 2>/dev/null </dev/null | sed -n 's/.*"runtimeResourcePath": "\(.*\)".*/\1/p')
    [[ -n $shared && -d ${shared}_static ]]
}

# Installs those of the named packages that are missing: as root by apt-get, else through sudo, else says the command.
install_packages() {
    local package missing=() as_root=()
    if ! command -v apt-get >/dev/null 2>&1 || ! command -v dpkg-query >/dev/null 2>&1; then
        echo "No apt on this system, so nothing is installed. What Debian calls these must be there: $*" >&2
        return 0
    fi
    for package in "$@"; do
        # shellcheck disable=SC2016 # a format of dpkg's, not a variable of ours
        if [[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) != *' ok installed' ]]; then
            missing+=("$package")
        fi
    done
    ((${#missing[@]})) || return 0

    if ((EUID != 0)); then
        if ! command -v sudo >/dev/null 2>&1; then
            say_how_to_install "${missing[@]}"
            return 1
        fi
        as_root=(sudo)
        # Without a terminal nobody could answer a question for the password.
        [[ -t 0 ]] || as_root=(sudo -n)
    fi
    echo "Installing by apt: ${missing[*]}" >&2
    if ! apt_get "${as_root[@]}" -- install -y --no-install-recommends "${missing[@]}"; then
        # The lists may be absent or old: fetch them, then once more.
        if ! apt_get "${as_root[@]}" -- update || ! apt_get "${as_root[@]}" -- install -y --no-install-recommends \
            "${missing[@]}"; then
            say_how_to_install "${missing[@]}"
            return 1
        fi
    fi
}

# apt_get [sudo [-n]] -- ARGUMENT...: what it prints goes to stderr, and it never asks.
apt_get() {
    local prefix=()
    while [[ $1 != -- ]]; do
        prefix+=("$1")
        shift
    done
    shift
    "${prefix[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" </dev/null >&2
}

say_how_to_install() {
    cat >&2 <<MESSAGE
These packages are missing and could not be installed from here: $*
Run this as root, then run this command again:

    apt-get update && apt-get install -y --no-install-recommends $*

MESSAGE
}
