#![no_main]
//! See `portdistrict::fuzzing::revocation_decode`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::revocation_decode(data));
