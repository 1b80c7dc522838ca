#!/usr/bin/env bash
# A certificate authority and a certificate for each part of a Dask cluster, into FOLDER (default: tls).
#
#   deploy/tls.sh [FOLDER] [ROLE ...]      roles: scheduler worker client, or others of your own
#
# Whoever holds a key of this authority can run code on the cluster, and Dask asks for nothing else: keep them as you
# keep an ssh key. What exists is left as it is, so that a role can be added later; to start over, remove the folder.
# TILEKIT_TLS_DAYS says how long a certificate is good (default 825). Needs openssl.
set -euo pipefail
umask 077
folder=${1:-tls}
shift || true
[ $# -gt 0 ] || set -- scheduler worker client
days=${TILEKIT_TLS_DAYS:-825}

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

mkdir -p "$folder"
chmod 700 "$folder"
if [ ! -e "$folder/ca.pem" ]; then
    key "$folder/ca.key"
    openssl req -x509 -new -sha256 -key "$folder/ca.key" -days 3650 -subj "/O=tilekit/CN=tilekit cluster authority" \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" \
        -out "$folder/ca.pem"
fi
for role; do
    case $role in ca | *[!a-z0-9-]* | "") echo "$role: is no name of a role; use a-z, 0-9 and -" >&2; exit 2 ;; esac
    [ ! -e "$folder/$role.pem" ] || continue
    key "$folder/$role.key"
    # every part both serves and asks: workers talk to each other, and the scheduler to them
    openssl req -new -sha256 -key "$folder/$role.key" -subj "/O=tilekit/CN=$role" |
        openssl x509 -req -sha256 -days "$days" -CA "$folder/ca.pem" -CAkey "$folder/ca.key" -set_serial "0x$(openssl rand -hex 16)" \
            -extfile <(printf '%s\n' "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" \
                "extendedKeyUsage=serverAuth,clientAuth" "subjectAltName=DNS:$role") \
            -out "$folder/$role.pem.new" 2>/dev/null
    mv "$folder/$role.pem.new" "$folder/$role.pem"
done
chmod 644 "$folder"/*.pem # certificates are public, keys (600) are not
