# Shell code that the scripts in Tools share. It is sourced, never run.
#
# Everything here talks on standard error: standard output belongs to what the caller starts.

root=$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")")
built_binary=$root/.build/release/bifrost
build_stamp=$root/.build/bifrost.stamp

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

# Installs the Debian packages named, or prints the command that does and stops.
install_packages() {
    local command="apt-get install --yes --no-install-recommends $*"
    local -a become=()
    command -v apt-get >/dev/null || fail "this machine has no apt-get. Bifrost needs what Debian calls: $*"
    if [[ $(id -u) != 0 ]]; then
        if ! sudo --non-interactive true 2>/dev/null; then
            say "Bifrost needs packages that are not installed and may not install them itself. Please run:"
            say "    sudo $command"
            exit 1
        fi
        become=(sudo --non-interactive)
    fi
    say "Installing: $*"
    local -a install=("${become[@]}" env DEBIAN_FRONTEND=noninteractive $command)
    # A machine that never asked for package lists has none: get them and try again.
    "${install[@]}" >&2 </dev/null && return
    "${become[@]}" apt-get update >&2 </dev/null || say "apt-get update failed; trying with the lists that are there"
    "${install[@]}" >&2 </dev/null || fail "could not install the packages. The command was: $command"
}

# Installs what building needs and is missing; further packages, if missing, may be named as "package=file that it brings".
require_packages() {
    local -a missing=()
    command -v pkg-config >/dev/null || missing+=(pkg-config)
    [[ ${#missing[@]} == 0 ]] && pkg-config --exists lmdb || missing+=(liblmdb-dev)
    local pair
    for pair in "$@"; do
        [[ -e ${pair#*=} ]] || missing+=("${pair%%=*}")
    done
    [[ ${#missing[@]} == 0 ]] || install_packages "${missing[@]}"
}

# Finds a Swift toolchain of at least 6.2 and puts it on the PATH.
require_swift() {
    local place version
    if ! command -v swift >/dev/null; then
        for place in "${HOME:-/nonexistent}/.local/share/swiftly/bin" /opt/swift/usr/bin /usr/local/swift/usr/bin; do
            [[ -x $place/swift ]] && PATH=$place:$PATH && break
        done
    fi
    command -v swift >/dev/null \
        || fail "found no Swift toolchain. Install Swift 6.2 or later (https://www.swift.org/install) and put it on the PATH"
    version=$(swift --version 2>/dev/null) || fail "'swift --version' failed. Is the toolchain at $(command -v swift) complete?"
    [[ $version =~ Swift\ version\ ([0-9]+)\.([0-9]+) ]] || fail "cannot tell the version of $(command -v swift): $version"
    ((BASH_REMATCH[1] > 6 || (BASH_REMATCH[1] == 6 && BASH_REMATCH[2] >= 2))) \
        || fail "found Swift ${BASH_REMATCH[1]}.${BASH_REMATCH[2]} at $(command -v swift); Bifrost needs Swift 6.2 or later"
}

# True when no source of the executable changed since the last build began. Looks at the times of change of inodes too,
# which no copying sets back, and at directories, which change when a file goes.
is_built() {
    [[ -x $built_binary && -e $build_stamp ]] || return 1
    local changed
    changed=$(find "$root/Package.swift" "$root/Sources" "$root/Tools/bifrost" \
        \( -newer "$build_stamp" -o -cnewer "$build_stamp" \) -print -quit) || return 1
    [[ -z $changed ]]
}

# Builds with the one optimised configuration. Arguments go to `swift build`.
build() {
    require_swift
    [[ -e $built_binary ]] || say "Building Bifrost. A first build fetches packages and takes minutes."
    mkdir -p "$root/.build"
    # The stamp has the time at which the build began: what is edited during the build counts as newer.
    : >"$build_stamp.new"
    env -u BIFROST_ONLY swift build --package-path "$root" --configuration release "$@" >&2 </dev/null || return
    mv "$build_stamp.new" "$build_stamp"
}
