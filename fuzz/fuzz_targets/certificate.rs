#![no_main]
//! See `portdistrict::fuzzing::certificate`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::certificate(data));
