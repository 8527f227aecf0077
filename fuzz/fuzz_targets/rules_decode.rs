#![no_main]
//! See `portdistrict::fuzzing::rules_decode`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::rules_decode(data));
