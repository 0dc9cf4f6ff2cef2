#!/bin/sh
# The image: its form, and its only layer as a root, with the rights that docs/INSTALL.md names. CAP_SYS_CHROOT besides, to get there.
. "$(dirname "$0")/common.sh"

rights=+bpf,+perfmon,+net_bind_service,+setuid,+setgid,+kill,+chown,+sys_ptrace

step "blobs are what their names say"
mkdir "$work/image" "$work/root"
tar --extract --file "$dist"/reuseport-lb-*-"$(uname -m)".oci.tar --directory "$work/image"
has "$(cat "$work/image/oci-layout")" '"imageLayoutVersion":"1.0.0"'
blobs=$work/image/blobs/sha256
for blob in "$blobs"/*; do
    [ "$(sha256sum <"$blob" | cut -d ' ' -f 1)" = "${blob##*/}" ]
done
# named FILE KIND: the digest of the first blob of that kind that FILE names.
named() { grep -o "[0-9a-f]*\",\"mediaType\":\"[^\"]*$2" "$1" | head -n 1 | cut -d '"' -f 1; }
manifest=$(named "$work/image/index.json" image.manifest)
layer=$(named "$blobs/$manifest" image.layer)
config=$(named "$blobs/$manifest" image.config)
gzip --decompress --stdout "$blobs/$layer" >"$work/layer.tar"
has "$(cat "$blobs/$config")" "\"diff_ids\":[\"sha256:$(sha256sum <"$work/layer.tar" | cut -d ' ' -f 1)\"]"
has "$(cat "$blobs/$config")" '"Entrypoint":["/usr/bin/reuseport-lb"]'

step "the demo with eight capabilities"
tar --extract --file "$work/layer.tar" --directory "$work/root"
kernel "$work/root"
contained() { setpriv --bounding-set "-all,$rights,+sys_chroot" chroot "$work/root" /usr/bin/reuseport-lb "$@"; }
contained run >"$work/log" 2>&1 &
until_done contained status --check
has "$(debian curl --silent http://127.0.0.1:8080/)" "worker=demo/"
contained stop
wait

step "without CAP_BPF it says what is missing"
rights=$(printf '%s' "$rights" | sed 's/+bpf,//')
if contained run >"$work/said" 2>&1; then exit 1; fi
has "$(cat "$work/said")" CAP_BPF
