#![no_main]
//! See `portdistrict::fuzzing::rotation_decode`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::rotation_decode(data));
