#!/usr/bin/env bash
# Installs Debian's Chromium and its driver for the tests of the page, where they are missing and this user may install them.
set -euo pipefail
command -v chromedriver > /dev/null && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  echo "no chromedriver: the tests of the page in a browser are skipped (as root on Debian they install it)" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium chromium-driver > /dev/null; }; then
  echo "Chromium could not be installed: the tests of the page in a browser are skipped" >&2
fi
