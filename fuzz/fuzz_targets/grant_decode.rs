#![no_main]
//! See `portdistrict::fuzzing::grant_decode`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::grant_decode(data));
