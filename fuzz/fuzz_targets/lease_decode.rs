#![no_main]
//! See `portdistrict::fuzzing::lease_decode`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::lease_decode(data));
