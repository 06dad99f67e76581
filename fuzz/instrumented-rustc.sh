#!/bin/sh
# What cargo calls instead of rustc here: it adds libFuzzer's view into the code to the crates of this repository, that is
# which edges ran and what was compared. These are LLVM's own passes, in every rustc: the sanitizers that need a nightly
# one would add nothing to code without `unsafe`. Other crates stay as they are, which makes all of it quicker.
case " $* " in
*" --crate-name build_script_"*) exec "$@" ;;
*" --crate-name ip_sentry_"* | *" targets/"* | *" --crate-name expression "*) ;;
*) exec "$@" ;;
esac
exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares
