#![no_main]
//! See `portdistrict::fuzzing::span_decode`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::span_decode(data));
