#!/bin/sh
# Healthy is what reads a real page on the device that the image is for. A GPU that is gone, a driver
# that is too old or a damaged model file fails here, and the reason is printed.
set -eu
device=${OCR_ONNX_HEALTH_DEVICE:-cpu}
text=$(ocr-onnx run /opt/health/page.png --device "$device" --threads 1 --quiet)
case $text in
*BOARDING*) echo "read a page on $device" ;;
*)
  echo "the page was not read right on $device: $text" >&2
  exit 1
  ;;
esac
