#!/usr/bin/env bash
# Installs Debian packages that tests need, where the program that they bring is missing and this user may install them.
# tools/debian.sh PROGRAM "PACKAGES" "WHAT IS MISSING WITHOUT THEM"
set -euo pipefail
command -v "$1" > /dev/null && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  echo "no $1: $3 (as root on Debian it is installed)" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # the packages are words
if ! { apt-get update -qq && apt-get install -qq -y --no-install-recommends $2 > /dev/null; }; then
  echo "$2 could not be installed: $3" >&2
fi
