#![no_main]
//! See `portdistrict::fuzzing::debian_package`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::debian_package(data));
