#!/bin/sh
# A container that serves is healthy when its /readyz says so: a second engine would tell nothing about the
# first, and take its memory. Any other is healthy when it reads a real page on the device that the image is
# for: a GPU that is gone, a driver that is too old or a damaged model file fails here, and the reason is printed.
# The argument is for tests: a file with the command line of the container's first process.
set -eu
url=${OCR_ONNX_HEALTH_URL:-}
if [ -z "$url" ] && tr '\0' ' ' <"${1:-/proc/1/cmdline}" | grep -q 'ocr-onnx serve '; then
  url=http://127.0.0.1:8080/readyz
fi
if [ -n "$url" ]; then
  # without the proxies that the environment may name
  exec python3 -I -c '
import sys
from urllib.request import ProxyHandler, build_opener

try:
    with build_opener(ProxyHandler({})).open(sys.argv[1], timeout=10) as answer:
        print(sys.argv[1], answer.read(200).decode("utf-8", "replace"))
except OSError as error:
    sys.exit(f"{sys.argv[1]}: {error}; OCR_ONNX_HEALTH_URL names another address")
' "$url"
fi
device=${OCR_ONNX_HEALTH_DEVICE:-cpu}
text=$(ocr-onnx run /opt/health/page.png --device "$device" --threads 1 --quiet)
case $text in
*BOARDING*) echo "read a page on $device" ;;
*)
  echo "the page was not read right on $device: $text" >&2
  exit 1
  ;;
esac
