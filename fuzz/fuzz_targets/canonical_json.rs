#![no_main]
//! See `portdistrict::fuzzing::canonical_json`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::canonical_json(data));
