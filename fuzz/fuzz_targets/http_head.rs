#![no_main]
//! See `portdistrict::fuzzing::http_head`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::http_head(data));
