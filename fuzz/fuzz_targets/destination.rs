#![no_main]
//! See `portdistrict::fuzzing::destination`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::destination(data));
